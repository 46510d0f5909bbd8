/** Which files a source of a job stands for: a path, a folder, or a folder of an installed npm package. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { UserError } from '../../base/errors.ts'

/** A file, or a folder of which the files that match are taken. */
export type FileSource =
  | { path: string; match?: string | undefined }
  /** Files in a folder of an installed npm package. */
  | { package: string; folder: string; match?: string | undefined }

export interface FileChoice {
  /** What the job calls the list of sources, for messages. */
  field: string
  /** Which files of a folder are taken. */
  endings: RegExp
  endingNames: string
}

/** Paths are relative to `baseFolder`; `${NAME}` and `${NAME:-default}` come from the environment. */
export function sourceFiles(source: FileSource, baseFolder: string, choice: FileChoice): string[] {
  const path =
    'path' in source
      ? resolve(baseFolder, expanded(source.path, choice.field))
      : packageFolder(source, baseFolder, choice.field)
  return filesAt(path, source.match === undefined ? /(?:)/ : new RegExp(source.match), choice)
}

/** With the values of environment variables in their places. Throws a UserError for one that is not set. */
export function expanded(path: string, field: string): string {
  return path.replace(/\$\{(\w+)(?::-([^}]*))?\}/g, (_, name: string, fallback: string | undefined) => {
    const value = process.env[name] ?? fallback
    if (value === undefined) {
      throw new UserError(`The field ${field} uses the environment variable ${name}, which is not set.`, {
        failure: 'usage',
        fix: `Set it: export ${name}=PATH`,
      })
    }
    return value
  })
}

function packageFolder(
  source: { package: string; folder: string },
  baseFolder: string,
  field: string,
): string {
  for (const start of [resolve(baseFolder), import.meta.dirname]) {
    for (let folder = start; ; folder = dirname(folder)) {
      const found = join(folder, 'node_modules', source.package)
      if (existsSync(found)) return join(found, source.folder)
      if (folder === dirname(folder)) break
    }
  }
  // What our own package brings instead of depending on it (scripts/prepack.mjs).
  const brought = join(import.meta.dirname, 'packages', source.package)
  if (existsSync(brought)) return join(brought, source.folder)
  throw new UserError(`The field ${field} names the npm package ${source.package}, which is not installed.`, {
    failure: 'not_found',
    fix: `Run: npm install ${source.package}`,
  })
}

function filesAt(path: string, pattern: RegExp, { field, endings, endingNames }: FileChoice): string[] {
  if (!existsSync(path)) {
    throw new UserError(`The field ${field} points at ${path}, which does not exist.`, {
      failure: 'not_found',
      fix: /(^|\/)(s3|gs|az|hf|https?):\//.test(path)
        ? 'A job of the service links it (ropeway train without --here); or link it (ropeway dataset link NAME URL --credential NAME), and write dataset:NAME.'
        : 'Correct the path; relative ones start at the folder of the job file.',
    })
  }
  if (!statSync(path).isDirectory()) return [path]
  const names = readdirSync(path).filter((name) => endings.test(name) && pattern.test(name))
  if (names.length === 0) {
    throw new UserError(`The folder ${path} has no ${endingNames} files that are asked for.`, {
      failure: 'not_found',
    })
  }
  return names.sort(byNumberThenName).map((name) => join(path, name))
}

/** chapter_2 before chapter_10. */
function byNumberThenName(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}
