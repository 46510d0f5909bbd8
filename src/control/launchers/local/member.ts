/** What became of one member, from its folder and from the processes that are there. */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Clock } from '../../../base/clock.ts'
import type { MemberObservation } from '../launcher.ts'
import { containerName, engine, removeContainer } from './containers.ts'
import { killMember } from './member-processes.ts'
import { isAlive, isOf, type ProcessIdentity, processIdentity, signalProcess } from './process-identity.ts'
import {
  type CancelNote,
  cancelNote,
  createOnce,
  type MemberResult,
  memberDevices,
  memberFolder,
  memberResult,
  names,
  readIfThere,
  readStored,
  startedProcess,
} from './run-folder.ts'

const addressCharactersMax = 300
/** After the end of a cancel's grace: then the launcher ends the command itself, and then the wrapper. */
const commandLateMs = 1_000
export const wrapperLateMs = 60_000

export function readCancel(folder: string): CancelNote | undefined {
  return readStored(cancelNote, join(folder, names.cancel))
}

/** The wrapper, while it lives. */
export function wrapperOf(folder: string): ProcessIdentity | undefined {
  const claim = readStored(processIdentity, join(folder, names.claim))
  return claim !== undefined && isAlive(claim) && isOf(claim, folder) ? claim : undefined
}

/** The command's process; undefined where the folder is a copy: then it belongs to another one. */
function commandOf(folder: string): ProcessIdentity | undefined {
  const command = readStored(startedProcess, join(folder, names.process))?.process
  return command !== undefined && isOf(command, folder) ? command : undefined
}

export function observeMember(
  run: string,
  runFolder: string,
  index: number,
  clock: Clock,
): MemberObservation {
  const folder = memberFolder(runFolder, index)
  const devices = readStored(memberDevices, join(folder, names.devices))?.indices ?? []
  const result = readStored(memberResult, join(folder, names.result))
  if (result !== undefined) return ended(index, devices, result)
  // Read in this order: a wrapper that claims after these two looks finds the cancel and starts nothing.
  const isCancelled = readCancel(runFolder) !== undefined || readCancel(folder) !== undefined
  if (readStored(processIdentity, join(folder, names.claim)) === undefined) {
    return isCancelled
      ? {
          index,
          state: 'ended',
          devices,
          message: 'It was cancelled before it started.',
          neverStarted: 'cancelled',
        }
      : { index, state: 'starting', devices }
  }
  const wrapper = wrapperOf(folder)
  if (wrapper !== undefined) {
    endOverdue(run, runFolder, index, wrapper, clock)
    return live(index, devices, folder)
  }
  // The wrapper may have written its result and left since the first look.
  const late = readStored(memberResult, join(folder, names.result))
  return late === undefined ? orphaned(run, index, devices, folder, clock) : ended(index, devices, late)
}

function live(index: number, devices: readonly number[], folder: string): MemberObservation {
  const started = readStored(startedProcess, join(folder, names.process))
  if (started === undefined) return { index, state: 'starting', devices }
  const address = readIfThere(join(folder, names.address))?.trim().slice(0, addressCharactersMax)
  return {
    index,
    state: 'running',
    devices,
    startedMs: started.startedMs,
    ...(address !== undefined && address !== '' && { address }),
  }
}

/**
 * A wrapper that is alive ends its command when a cancel's grace is over. One that stands still (stopped, or waiting for
 * a disk that does not answer) is done without: its command is ended from here, and later the wrapper too.
 */
function endOverdue(
  run: string,
  runFolder: string,
  index: number,
  wrapper: ProcessIdentity,
  clock: Clock,
): void {
  const folder = memberFolder(runFolder, index)
  const endsMs = [readCancel(runFolder), readCancel(folder)].flatMap((note) =>
    note === undefined ? [] : [note.atMs + note.graceMs],
  )
  const lateMs = clock.unixMs() - Math.min(...endsMs)
  if (lateMs < commandLateMs) return
  killMember({
    ...{ run, member: index, folder, command: commandOf(folder), asParent: false },
    except: wrapper.pid,
  })
  // A container that its engine does not remove is waited for there, and not here, where all wait.
  const isContainer = existsSync(join(runFolder, names.engine))
  if (lateMs >= wrapperLateMs && !isContainer) signalProcess(wrapper, 'SIGKILL')
}

/**
 * The wrapper is dead and wrote no result, so nobody watches the command. It is killed, and lost when it is gone:
 * a command whose end nobody would see must not go on beside its own next attempt.
 */
function orphaned(
  run: string,
  index: number,
  devices: readonly number[],
  folder: string,
  clock: Clock,
): MemberObservation {
  const message = messageOfOrphan(folder)
  const started = readStored(startedProcess, join(folder, names.process))
  const left = killMember({ run, member: index, folder, command: commandOf(folder), asParent: false })
  const container = readStored(engine, join(dirname(dirname(folder)), names.engine))
  const stays = container && removeContainer(container, containerName(run, index, folder), process.env)
  if (left > 0 || stays !== undefined)
    return {
      ...{ index, state: 'running', devices, message: stays ?? message },
      ...(started && { startedMs: started.startedMs }),
    }
  const result: MemberResult = {
    endedMs: clock.unixMs(),
    lost: true,
    message,
    ...(started && { startedMs: started.startedMs }),
  }
  createOnce(join(folder, names.result), JSON.stringify(result))
  return ended(index, devices, readStored(memberResult, join(folder, names.result)) ?? result)
}

function messageOfOrphan(folder: string): string {
  const claim = readStored(processIdentity, join(folder, names.claim))
  return claim === undefined || isOf(claim, folder)
    ? 'Its wrapper process died; the command was stopped.'
    : 'What ran here is not in this copy of its folder.'
}

function ended(index: number, devices: readonly number[], result: MemberResult): MemberObservation {
  const { lost, ...rest } = result
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined))
  return { index, devices, ...given, state: lost === true ? 'lost' : 'ended' }
}
