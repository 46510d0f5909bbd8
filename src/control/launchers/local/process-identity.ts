/**
 * Who a process is: its id alone is given to another process some time later, so it goes with the moment at which
 * that process started and with the boot of the machine.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { z } from 'zod'

export const processIdentity = z.object({ pid: z.int().min(2), started: z.string(), boot: z.string() })
export type ProcessIdentity = z.output<typeof processIdentity>

/** The processes of a run carry these in their environment, and so do their children. */
export const runLabel = 'ROPEWAY_RUN'
export const memberLabel = 'ROPEWAY_MEMBER'

const onLinux = process.platform === 'linux'
/** "The process is not there" in the words of /proc and of kill. */
const goneCodes = new Set(['ENOENT', 'ESRCH'])

export function identify(pid: number): ProcessIdentity | undefined {
  const started = onLinux ? startedLinux(pid) : startedElsewhere(pid)
  return started === undefined ? undefined : { pid, started, boot: bootOf() }
}

export function isAlive(identity: ProcessIdentity): boolean {
  if (identity.boot !== bootOf()) return false
  return identify(identity.pid)?.started === identity.started
}

/** Sends `signal` to the process (or, with `group`, to its process group) unless the id means another one by now. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals, group = false): void {
  if (!isAlive(identity)) return
  sendSignal(group ? -identity.pid : identity.pid, signal)
}

/** A negative id names a process group. One that is gone is what was wanted. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!isGone(error)) throw error
  }
}

/** Clock ticks between boot and the start of the process; undefined for the dead and for zombies. proc(5), stat. */
function startedLinux(pid: number): string | undefined {
  const stat = readIfThere(`/proc/${pid}/stat`)
  if (stat === undefined) return undefined
  // The name in parentheses may hold anything, parentheses too; the fields begin behind the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state] = fields
  return state === 'Z' || state === 'X' ? undefined : fields[19]
}

function startedElsewhere(pid: number): string | undefined {
  const { stdout } = spawnSync('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], { encoding: 'utf8' })
  const match = /^\s*(\S+)\s+(.+?)\s*$/.exec(stdout ?? '')
  return match === null || match[1]!.startsWith('Z') ? undefined : match[2]
}

let boot: string | undefined
function bootOf(): string {
  boot ??= (onLinux ? readIfThere('/proc/sys/kernel/random/boot_id')?.trim() : undefined) ?? 'unknown'
  return boot
}

/** Process ids of everything on this machine that carries the labels; empty where /proc is missing. */
export function labelled(run: string, member: number): number[] {
  if (!onLinux) return []
  const wanted = [`${runLabel}=${run}`, `${memberLabel}=${member}`]
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) return []
    const variables = readIfThere(`/proc/${name}/environ`)?.split('\0') ?? []
    if (!wanted.every((label) => variables.includes(label))) return []
    return identify(Number(name)) === undefined ? [] : [Number(name)]
  })
}

function isGone(error: unknown): boolean {
  return goneCodes.has((error as NodeJS.ErrnoException).code ?? '')
}

/** Undefined for what is gone and for what belongs to somebody else: neither is ours. */
function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (isGone(error) || code === 'EACCES' || code === 'EPERM') return undefined
    throw error
  }
}
