/** Sends a job's folder to the service: what it has already is not sent again. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, join, relative, resolve, sep } from 'node:path'
import type { Client } from '../api/control/client.ts'
import {
  putWorkspace,
  putWorkspaceContent,
  type WorkspaceFiles,
  workspaceBytesMax,
  workspaceFileBytesMax,
  workspaceFilesMax,
  workspaceListText,
} from '../api/control/workspaces.ts'
import { assert } from '../base/assert.ts'
import { UserError } from '../base/errors.ts'
import type { Session } from './noun.ts'
import { bytes, ProgressLine } from './terminal.ts'

/** Never part of a job. */
const left = new Set([
  '.git',
  'node_modules',
  '__pycache__',
  '.venv',
  'venv',
  '.cache',
  'ropeway-out',
  '.DS_Store',
])
const ignoreFile = '.ropewayignore'

/** A folder as it would be sent. */
export interface Workspace {
  /** The name that the service would give it. */
  readonly id: string
  readonly files: WorkspaceFiles
  /** By SHA-256: where the content lies. */
  readonly sources: ReadonlyMap<string, string>
}

/** `without`: paths, from `folder` on or absolute, that are left out, as where the job writes when it runs here. */
export function readWorkspace(folder: string, without: readonly string[]): Workspace {
  const files: WorkspaceFiles = []
  const sources = new Map<string, string>()
  for (const path of collect(folder, ignored(folder, without))) {
    const full = join(folder, path)
    const sha256 = createHash('sha256').update(readFileSync(full)).digest('hex')
    const { size, mode } = statSync(full)
    files.push({ path: path.split(sep).join('/'), sha256, bytes: size, executable: (mode & 0o100) !== 0 })
    sources.set(sha256, full)
  }
  const id = `ws_${createHash('sha256').update(workspaceListText(files)).digest('hex')}`
  return { id, files, sources }
}

/** Sends what the service lacks; returns the workspace's id. */
export async function sendWorkspace(
  client: Client,
  project: string,
  { files, sources }: Workspace,
): Promise<string> {
  const params = { project }
  const first = await client.call(putWorkspace, { params, body: { files } })
  if (first.id !== null) return first.id
  const progress = new ProgressLine()
  for (const [index, sha256] of first.missing.entries()) {
    const source = sources.get(sha256)!
    const body = readFileSync(source)
    progress.update(index / first.missing.length, `sending ${basename(source)} (${bytes(body.length)})`)
    await client.call(putWorkspaceContent, { params: { ...params, content: sha256 }, body })
  }
  progress.end()
  const { id } = await client.call(putWorkspace, { params, body: { files } })
  assert(id !== null, 'a workspace of which everything was sent is kept')
  return id
}

export function uploadWorkspace({ client, project }: Session, folder: string, out: string): Promise<string> {
  return sendWorkspace(client, project, readWorkspace(folder, [out]))
}

function ignored(folder: string, without: readonly string[]): ReadonlySet<string> {
  const path = join(folder, ignoreFile)
  const own = existsSync(path) ? readFileSync(path, 'utf8').split('\n') : []
  const names = own
    .map((name) => name.trim().replace(/\/$/, ''))
    .filter((name) => name !== '' && !name.startsWith('#'))
  const others = without.map((path) => relative(resolve(folder), resolve(folder, path)))
  return new Set([...names, ignoreFile, ...others].map((name) => name.split(sep).join('/')))
}

/** Paths below `folder`; refuses folders that are no job's before anything is read. */
function collect(folder: string, passedOver: ReadonlySet<string>): string[] {
  const found: string[] = []
  let total = 0
  const visit = (own: string) => {
    for (const entry of readdirSync(join(folder, own), { withFileTypes: true })) {
      const path = join(own, entry.name)
      if (left.has(entry.name) || passedOver.has(path.split(sep).join('/'))) continue
      if (entry.isDirectory()) visit(path)
      // Links could lead out of the folder.
      if (!entry.isFile()) continue
      const { size } = statSync(join(folder, path))
      total += size
      found.push(path)
      const tooMuch =
        (size > workspaceFileBytesMax &&
          `${path} has ${bytes(size)}, more than ${bytes(workspaceFileBytesMax)}`) ||
        (total > workspaceBytesMax && `it has more than ${bytes(workspaceBytesMax)}`) ||
        (found.length > workspaceFilesMax && `it has more than ${workspaceFilesMax} files`)
      if (tooMuch)
        throw new UserError(`The folder of the job, ${folder}, is too large: ${tooMuch}.`, {
          failure: 'usage',
          fix: `Put the job file into a folder of its own, or name what it does not need in ${ignoreFile}.`,
        })
    }
  }
  visit('.')
  return found
}
