/** Sends a job's folder to the service: what it has already is not sent again. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative, resolve, sep } from 'node:path'
import {
  putWorkspace,
  putWorkspaceContent,
  type WorkspaceFiles,
  workspaceBytesMax,
  workspaceFileBytesMax,
  workspaceFilesMax,
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

/** Returns the workspace's id. `out` is where the job writes when it runs here. */
export async function uploadWorkspace(session: Session, folder: string, out: string): Promise<string> {
  const found = collect(folder, ignored(folder, out))
  const files: WorkspaceFiles = []
  const pathOf = new Map<string, string>()
  for (const path of found) {
    const full = join(folder, path)
    const sha256 = createHash('sha256').update(readFileSync(full)).digest('hex')
    const { size, mode } = statSync(full)
    files.push({ path: path.split(sep).join('/'), sha256, bytes: size, executable: (mode & 0o100) !== 0 })
    pathOf.set(sha256, full)
  }
  const params = { project: session.project }
  const first = await session.client.call(putWorkspace, { params, body: { files } })
  if (first.id !== null) return first.id
  const progress = new ProgressLine()
  for (const [index, sha256] of first.missing.entries()) {
    const body = readFileSync(pathOf.get(sha256)!)
    progress.update(
      index / first.missing.length,
      `sending ${relative(folder, pathOf.get(sha256)!)} (${bytes(body.length)})`,
    )
    await session.client.call(putWorkspaceContent, { params: { ...params, content: sha256 }, body })
  }
  progress.end()
  const { id } = await session.client.call(putWorkspace, { params, body: { files } })
  assert(id !== null, 'a workspace of which everything was sent is kept')
  return id
}

function ignored(folder: string, out: string): ReadonlySet<string> {
  const path = join(folder, ignoreFile)
  const own = existsSync(path) ? readFileSync(path, 'utf8').split('\n') : []
  const names = own
    .map((name) => name.trim().replace(/\/$/, ''))
    .filter((name) => name !== '' && !name.startsWith('#'))
  return new Set(
    [...names, ignoreFile, relative(folder, resolve(folder, out))].map((name) => name.split(sep).join('/')),
  )
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
