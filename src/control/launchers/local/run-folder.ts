/**
 * A run on this machine is a folder; whoever dies, the folder says what was asked and what became of it.
 *
 *     <id>/request.json     what was submitted (absent: only a cancel arrived)
 *     <id>/cancel.json      the run is to end
 *     <id>/engine.json      what runs its containers
 *     <id>/login/           a registry's password, while members start
 *     <id>/members/<n>/
 *       devices.json        its device indices; the folder appears whole, by a rename
 *       cancel.json         this member is to end (scaled down)
 *       claim.json          the one wrapper that may start the command; it appears by a link, so only once
 *       process.json        the command's process
 *       container           the id of the container that it runs in
 *       result.json         how it ended: final
 *       address, log.NNNNNN
 */
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { syncFolder } from '../../../base/files.ts'
import { identify, processIdentity } from './process-identity.ts'

const environment = z.record(z.string(), z.string())

export const storedRequest = z.object({
  id: z.string(),
  command: z.array(z.string()).min(1),
  environment,
  // Of secrets, only what they are called.
  secretNames: z.array(z.string()).optional(),
  memberEnvironments: z.array(environment).optional(),
  folder: z.string(),
  members: z.int(),
  devices: z.object({ type: z.string(), perMember: z.int() }).optional(),
  logBytesMax: z.int().optional(),
  // Without the login, which is kept apart and never longer than the run.
  container: z
    .object({
      image: z.string(),
      network: z.enum(['none', 'bridge', 'host']),
      mounts: z.array(z.object({ path: z.string(), readOnly: z.boolean() })),
      memoryBytes: z.int().optional(),
      cpus: z.number().optional(),
      sharedMemoryBytes: z.int().optional(),
    })
    .optional(),
})
export type StoredRequest = z.output<typeof storedRequest>

export const cancelNote = z.object({ graceMs: z.number(), atMs: z.number() })
export type CancelNote = z.output<typeof cancelNote>

export const memberResult = z.object({
  endedMs: z.number(),
  startedMs: z.number().optional(),
  exitCode: z.int().optional(),
  signal: z.string().optional(),
  message: z.string().optional(),
  neverStarted: z.enum(['cancelled', 'failed']).optional(),
  lost: z.boolean().optional(),
})
export type MemberResult = z.output<typeof memberResult>

export const startedProcess = z.object({ process: processIdentity, startedMs: z.number() })
export const memberDevices = z.object({ type: z.string().optional(), indices: z.array(z.int()) })

export const names = {
  request: 'request.json',
  cancel: 'cancel.json',
  members: 'members',
  devices: 'devices.json',
  claim: 'claim.json',
  process: 'process.json',
  container: 'container',
  result: 'result.json',
  address: 'address',
  engine: 'engine.json',
  login: 'login',
} as const

/** Undefined when the file is not there. What is there was written whole. */
export function readStored<T>(schema: z.ZodType<T>, path: string): T | undefined {
  const text = readIfThere(path)
  return text === undefined ? undefined : schema.parse(JSON.parse(text))
}

export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/**
 * Creates `path` with `content`, whole, unless it is there already: true for the one who created it. False too when
 * its folder is gone, which is never made again: what was removed must not come back.
 */
export function createOnce(path: string, content: string): boolean {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.once`)
  try {
    writeFileSync(temporary, content, { mode: 0o600, flush: true })
    linkSync(temporary, path)
    syncFolder(dirname(path))
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' || code === 'ENOENT') return false
    throw error
  } finally {
    rmSync(temporary, { force: true })
  }
}

/** Fills a new folder under another name and renames it, unless `path` is there already: true when it was created. */
export function createFolderOnce(path: string, fill: (folder: string) => void): boolean {
  if (existsSync(path)) return false
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.new`)
  rmSync(temporary, { recursive: true, force: true })
  // What jobs are told may be secret: only the owner reads it.
  mkdirSync(temporary, { recursive: true, mode: 0o700 })
  fill(temporary)
  try {
    renameSync(temporary, path)
    syncFolder(dirname(path))
    return true
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true })
    const { code } = error as NodeJS.ErrnoException
    // A rename never replaces a folder that holds something (rename(2)).
    if (code === 'ENOTEMPTY' || code === 'EEXIST') return false
    throw error
  }
}

/** Removes the folder in one step first, so that nobody finds a part of it, and what is in it then. */
export function removeFolder(path: string): void {
  const gone = join(dirname(path), `.${basename(path)}.${process.pid}.gone`)
  rmSync(gone, { recursive: true, force: true })
  try {
    renameSync(path, gone)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  rmSync(gone, { recursive: true, force: true })
}

/** Removes what {@link createFolderOnce} and {@link removeFolder} left in `root` when their process was killed. */
export function clearLeftovers(root: string): void {
  for (const name of readdirSync(root)) {
    const pid = /^\..*\.(\d+)\.(?:new|gone)$/.exec(name)?.[1]
    // Both are done in one go, so none of this process is under way.
    if (pid !== undefined && (Number(pid) === process.pid || identify(Number(pid)) === undefined))
      rmSync(join(root, name), { recursive: true, force: true })
  }
}

export function writeSecret(path: string, value: unknown): void {
  writeFileSync(path, JSON.stringify(value), { mode: 0o600, flush: true })
}

export function memberFolder(runFolder: string, index: number): string {
  return join(runFolder, names.members, String(index))
}

/** Indices of members that were ever created, ascending. */
export function memberIndices(runFolder: string): number[] {
  const folder = join(runFolder, names.members)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b)
}
