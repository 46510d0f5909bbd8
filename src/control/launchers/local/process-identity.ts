/**
 * Who a process is: its id alone is given to another process some time later, so it goes with the moment at which
 * that process started and with the boot of the machine.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { z } from 'zod'

export const processIdentity = z.object({
  pid: z.int().min(2),
  started: z.string(),
  boot: z.string(),
  /** The number of the folder that it was first kept in; see {@link isOf}. */
  folder: z.string().optional(),
})
export type ProcessIdentity = z.output<typeof processIdentity>

/** The processes of a run carry these in their environment, and so do their children. */
export const runLabel = 'ROPEWAY_RUN'
export const memberLabel = 'ROPEWAY_MEMBER'
/** The member's folder: two services on one machine may know runs of the same id, one of them from a backup. */
export const folderLabel = 'ROPEWAY_RUN_FOLDER'

export const onLinux = process.platform === 'linux'
/** "The process is not there" in the words of /proc and of kill. */
const goneCodes = new Set(['ENOENT', 'ESRCH'])

export function identify(pid: number): ProcessIdentity | undefined {
  const started = onLinux ? startedLinux(pid) : startedElsewhere(pid)
  return started === undefined ? undefined : { pid, started, boot: bootOf() }
}

/** Who a child is that its parent has not seen end: a zombie too, for its process group may live. */
export function identifyChild(pid: number): ProcessIdentity | undefined {
  const started = onLinux ? statOf(pid)?.started : startedElsewhere(pid)
  return started === undefined ? undefined : { pid, started, boot: bootOf() }
}

export function isAlive(identity: ProcessIdentity): boolean {
  if (identity.boot !== bootOf()) return false
  return identify(identity.pid)?.started === identity.started
}

/** The same while a folder is moved, or reached by another path; another one for each copy. Undefined once it is gone. */
export function folderNumber(path: string): string | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false })
  return stat && `${stat.dev}:${stat.ino}`
}

/**
 * Whether a process whose identity lies in the member's `folder` is a process of that. In a copy of the folder, a
 * backup that was restored for one, lie those of the original, which may go on beside it.
 */
export function isOf({ pid, folder: number }: ProcessIdentity, folder: string): boolean {
  if (number === folderNumber(folder)) return true
  // Some file systems (FUSE) number their files anew, and older versions kept no number.
  const environment = onLinux ? readIfThere(`/proc/${pid}/environ`, '') : undefined
  const label = environment?.split('\0').find((variable) => variable.startsWith(`${folderLabel}=`))
  return label === undefined ? number === undefined : label === `${folderLabel}=${folder}`
}

/** Sends `signal` to the process unless its id means another one by now. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): void {
  if (isAlive(identity)) sendSignal(identity.pid, signal)
}

/**
 * A negative id names a process group. One that is gone is what was wanted; one that became another user's (a program
 * with rights of its own) cannot be signalled, and whoever waits for its end sees that it lives.
 */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!isGone(error) && (error as NodeJS.ErrnoException).code !== 'EPERM') throw error
  }
}

/** Undefined for the dead and for zombies. */
function startedLinux(pid: number): string | undefined {
  const stat = statOf(pid)
  return stat?.isLive === true ? stat.started : undefined
}

export interface Stat {
  readonly isLive: boolean
  readonly group: number
  /** Clock ticks between boot and its start. */
  readonly started: string
  /** It has a program, and that program was given variables, or is just being loaded (execve). */
  readonly hasVariables: boolean
}

/** Flags of processes that have no program: PF_KTHREAD, and PF_EXITING, which ends and runs nothing any more. */
const withoutProgram = 0x20_00_00 | 0x4

/** From proc(5), stat. Undefined when there is no such process. */
export function statOf(pid: number): Stat | undefined {
  const stat = readIfThere(`/proc/${pid}/stat`)
  if (stat === undefined) return undefined
  // The name in parentheses may hold anything, parentheses too; the fields begin behind the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, group, flags, threads, started] = [0, 2, 6, 17, 19].map((field) => fields[field] ?? '')
  const [first, end] = fields.slice(47, 49)
  // A process whose first thread has ended looks like a zombie while its other threads live.
  const isLive = state === 'Z' ? Number(threads) > 1 : state !== 'X'
  // Where a kernel never says where they lie, a process that has arguments is not being loaded.
  const isBeingLoaded = end === '0' && readIfThere(`/proc/${pid}/cmdline`) === ''
  const hasVariables = (first !== end || isBeingLoaded) && (Number(flags) & withoutProgram) === 0
  return { isLive, group: Number(group), started: started!, hasVariables }
}

export function startedElsewhere(pid: number): string | undefined {
  const { stdout } = spawnSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { encoding: 'utf8' })
  const match = /^\s*(\S+)\s+(.+?)\s*$/.exec(stdout ?? '')
  return match === null || match[1]!.startsWith('Z') ? undefined : match[2]
}

let boot: string | undefined
export function bootOf(): string {
  boot ??= (onLinux ? readIfThere('/proc/sys/kernel/random/boot_id')?.trim() : undefined) ?? 'unknown'
  return boot
}

function isGone(error: unknown): boolean {
  return goneCodes.has((error as NodeJS.ErrnoException).code ?? '')
}

/** `gone` for what is gone; undefined for what belongs to somebody else: neither is ours. */
export function readIfThere(path: string, gone?: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (isGone(error)) return gone
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EACCES' || code === 'EPERM') return undefined
    throw error
  }
}
