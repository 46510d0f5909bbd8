/** All processes of a member: which they are, and how they are ended. */
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import {
  bootOf,
  folderLabel,
  identify,
  isAlive,
  memberLabel,
  onLinux,
  type ProcessIdentity,
  readIfThere,
  runLabel,
  sendSignal,
  startedElsewhere,
  statOf,
} from './process-identity.ts'

/** Which processes belong to a member: those with its labels, and its command's process group. */
export interface MemberProcesses {
  readonly run: string
  readonly member: number
  /** The member's folder. */
  readonly folder: string
  /** The command's process, which leads its group; undefined when it was not written down. */
  readonly command: ProcessIdentity | undefined
  /** Its parent asks, which has watched it all the time: the group's number can be nobody else's. */
  readonly asParent: boolean
  /** Not to be ended: the wrapper, which carries the labels too. */
  readonly except?: number
}

interface Found {
  readonly members: readonly number[]
  /** So many become other programs just now; whether they carry the labels can be told a moment later. */
  readonly unclear: number
}

/**
 * Sends SIGKILL to all that lives of a member, and says how many processes are left to wait for. When it says zero,
 * nothing runs any more: what is still ending after a SIGKILL (it may hold gigabytes, or a device) counts, and so does
 * whatever it cannot tell yet, so that it may say more than there are, but never fewer.
 *
 * The number of a group whose leader is gone may be that of another group by now, so then only those of its processes
 * are ended that carry the labels or have no environment at all.
 */
export function killMember(asked: MemberProcesses): number {
  const group = groupOf(asked.command)
  const isSure = asked.command !== undefined && (asked.asParent || isAlive(asked.command))
  let found = find(asked, group, isSure)
  // A process may have started another one and ended between the list of processes and the look at it.
  if (found.members.length + found.unclear === 0) found = find(asked, group, isSure)
  // The whole group in one call first: a process that it starts meanwhile cannot slip away.
  if (group !== undefined && isSure && found.members.length > 0) sendSignal(-group, 'SIGKILL')
  for (const pid of found.members) sendSignal(pid, 'SIGKILL')
  return found.members.length + found.unclear
}

/** The number of the command's process group, unless it is certain that it has become somebody else's. */
function groupOf(command: ProcessIdentity | undefined): number | undefined {
  if (command === undefined || command.boot !== bootOf()) return undefined
  const leader = onLinux ? statOf(command.pid)?.started : startedElsewhere(command.pid)
  return leader === undefined || leader === command.started ? command.pid : undefined
}

function find(asked: MemberProcesses, group: number | undefined, isSure: boolean): Found {
  if (onLinux) return findOnLinux(asked, group, isSure)
  return { members: group === undefined || !isSure ? [] : membersOfGroup(group), unclear: 0 }
}

function findOnLinux(
  { run, member, folder, except }: MemberProcesses,
  group: number | undefined,
  isSure: boolean,
): Found {
  const members: number[] = []
  let unclear = 0
  for (const pid of processIds()) {
    const stat = pid === except ? undefined : statOf(pid)
    if (stat?.isLive !== true) continue
    const isInGroup = stat.group === group
    // Undefined for processes of other users, who tell us nothing.
    const environment = isInGroup && isSure ? '' : environmentOf(pid)
    if ((isInGroup && environment === '') || hasLabels(environment, run, member, folder)) members.push(pid)
    else if (environment === '' && stat.hasVariables) unclear++
  }
  return { members, unclear }
}

function membersOfGroup(group: number): number[] {
  const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,pgid=,stat='], { encoding: 'utf8' })
  return (stdout ?? '').split('\n').flatMap((line) => {
    const [pid, its, state = 'Z'] = line.trim().split(/\s+/)
    return Number(its) === group && !state.startsWith('Z') ? [Number(pid)] : []
  })
}

/** Process ids of everything on this machine that carries the labels; empty where /proc is missing. */
export function labelled(run: string, member: number, folder: string): number[] {
  if (!onLinux) return []
  return processIds().filter(
    (pid) => hasLabels(environmentOf(pid), run, member, folder) && identify(pid) !== undefined,
  )
}

/** All processes of this machine but this one. */
function processIds(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map(Number)
}

/**
 * Variables, each ended by a zero byte; undefined for what is somebody else's. Empty for a process that ends, which
 * gives its memory back first (by the kernel's version it reads as empty or as ESRCH).
 */
function environmentOf(pid: number): string | undefined {
  return readIfThere(`/proc/${pid}/environ`, '')
}

/** Processes of a service that did not know the label of the folder yet count as this one's. */
function hasLabels(environment: string | undefined, run: string, member: number, folder: string): boolean {
  const variables = environment?.split('\0') ?? []
  if (!variables.includes(`${runLabel}=${run}`) || !variables.includes(`${memberLabel}=${member}`))
    return false
  const other = variables.find((variable) => variable.startsWith(`${folderLabel}=`))
  return other === undefined || other === `${folderLabel}=${folder}`
}
