/** Texts from files, folders and npm packages, and their tokens split into training and validation. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { messageOf, UserError } from '../base/errors.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

export type TextSource =
  /** A text file, or a folder whose .txt and .md files are taken in the order of their names. */
  | { path: string }
  /** Text files in a folder of an installed npm package, or those of them whose name matches. */
  | { package: string; folder: string; match?: string | undefined }

export interface Text {
  path: string
  content: string
}

/** Reads all sources. Paths are relative to `baseFolder`; `${NAME}` and `${NAME:-default}` come from the environment. */
export function readTexts(sources: readonly TextSource[], baseFolder: string): Text[] {
  const texts = sources.flatMap((source) => {
    const path =
      'path' in source ? resolve(baseFolder, expanded(source.path)) : packageFolder(source, baseFolder)
    const pattern = 'match' in source && source.match !== undefined ? new RegExp(source.match) : undefined
    return textFiles(path, pattern).map((file) => ({ path: file, content: readText(file) }))
  })
  if (texts.every(({ content }) => content.length === 0)) {
    throw new UserError('The data has no text.', {
      fix: 'Point the field data.text at files that are not empty.',
    })
  }
  return texts
}

function expanded(path: string): string {
  return path.replace(/\$\{(\w+)(?::-([^}]*))?\}/g, (_, name: string, fallback: string | undefined) => {
    const value = process.env[name] ?? fallback
    if (value === undefined) {
      throw new UserError(`The field data.text uses the environment variable ${name}, which is not set.`, {
        failure: 'usage',
        fix: `Set it: export ${name}=PATH`,
      })
    }
    return value
  })
}

function packageFolder(source: { package: string; folder: string }, baseFolder: string): string {
  for (const start of [resolve(baseFolder), import.meta.dirname]) {
    for (let folder = start; ; folder = dirname(folder)) {
      const found = join(folder, 'node_modules', source.package)
      if (existsSync(found)) return join(found, source.folder)
      if (folder === dirname(folder)) break
    }
  }
  throw new UserError(
    `The field data.text names the npm package ${source.package}, which is not installed.`,
    {
      failure: 'not_found',
      fix: `Run: npm install ${source.package}`,
    },
  )
}

function textFiles(path: string, pattern = /(?:)/): string[] {
  if (!existsSync(path)) {
    throw new UserError(`The field data.text points at ${path}, which does not exist.`, {
      failure: 'not_found',
    })
  }
  if (!statSync(path).isDirectory()) return [path]
  const names = readdirSync(path).filter((name) => /\.(txt|md)$/i.test(name) && pattern.test(name))
  if (names.length === 0) {
    throw new UserError(`The folder ${path} has no .txt or .md files that are asked for.`, {
      failure: 'not_found',
    })
  }
  return names.sort(byNumberThenName).map((name) => join(path, name))
}

/** chapter_2 before chapter_10. */
function byNumberThenName(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true })
}

function readText(path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path))
  } catch (error) {
    throw new UserError(`${path} is not UTF-8 text: ${messageOf(error)}`, { cause: error })
  }
}

export interface Corpus {
  training: readonly Int32Array[]
  validation: readonly Int32Array[]
  /** SHA-256 of the training tokens. */
  hash: string
}

/** The end of every text, `validationShare` of its characters, is held out. */
export function splitTexts(
  texts: readonly Text[],
  validationShare: number,
): { training: string[]; validation: string[] } {
  const cuts = texts.map(({ content }) => Math.floor(content.length * (1 - validationShare)))
  const training = texts.map(({ content }, i) => content.slice(0, cuts[i]))
  const validation = texts.map(({ content }, i) => content.slice(cuts[i]))
  const filled = (text: string) => text.length > 0
  return { training: training.filter(filled), validation: validation.filter(filled) }
}

export function tokenise(tokenizer: Tokenizer, texts: { training: string[]; validation: string[] }): Corpus {
  const training = texts.training.map((text) => tokensOf(tokenizer, text))
  const hash = createHash('sha256')
  for (const tokens of training) hash.update(new Uint8Array(tokens.buffer)).update('|')
  return {
    training,
    validation: texts.validation.map((text) => tokensOf(tokenizer, text)),
    hash: hash.digest('hex'),
  }
}

/** One text's tokens, with the end-of-text token behind them where the tokenizer has one. */
function tokensOf(tokenizer: Tokenizer, text: string): Int32Array {
  const tokens: number[] = []
  const ids = tokenizer.encode(text, { addSpecial: false, parseSpecial: false })
  for (const id of ids) tokens.push(id)
  const end = tokenizer.eosTokens[0]
  return Int32Array.from(end === undefined ? tokens : [...tokens, end])
}

/** All documents behind one another. */
export function joined(documents: readonly Int32Array[]): Int32Array {
  const stream = new Int32Array(documents.reduce((sum, { length }) => sum + length, 0))
  let place = 0
  for (const tokens of documents) {
    stream.set(tokens, place)
    place += tokens.length
  }
  return stream
}
