/**
 * Runs on this machine: real processes that outlive the server which started them.
 *
 * All state is in folders (run-folder.ts) and in the processes themselves, so a server that comes back after a kill
 * asks them and remembers nothing. One launcher works on a folder at a time; what it promises when two race is only
 * that no command is started twice, not which devices each gets.
 */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { assert } from '../../../base/assert.ts'
import { type Clock, systemClock } from '../../../base/clock.ts'
import { writeFileAtomic } from '../../../base/files.ts'
import { ownValue } from '../../../base/own.ts'
import { runnerOf } from '../../../base/processes.ts'
import {
  isRunId,
  type Launcher,
  type LogPage,
  type LogQuery,
  type MemberObservation,
  membersMax,
  type Observation,
  type RunRequest,
  refuse,
  type Submission,
} from '../launcher.ts'
import {
  type Engine,
  engineEnvironment,
  engineMissing,
  findEngine,
  isOfEngine,
  writeLogin,
} from './containers.ts'
import { freeDevices } from './devices.ts'
import { passedOn } from './inherited.ts'
import { readLog } from './log-files.ts'
import { observeMember, readCancel, wrapperOf } from './member.ts'
import { folderLabel, memberLabel, runLabel, sendSignal } from './process-identity.ts'
import {
  clearLeftovers,
  createFolderOnce,
  memberDevices,
  memberFolder,
  memberIndices,
  names,
  readStored,
  removeFolder,
  type StoredRequest,
  storedRequest,
  writeSecret,
} from './run-folder.ts'

export interface LocalLauncherOptions {
  /** Where runs have their folders. */
  readonly root: string
  /** Devices of this machine: how many of each type. Without it, whoever submits has counted them. */
  readonly devices?: Readonly<Record<string, number>>
  /** The file that a wrapper process runs; it calls `runWrapper` with its argument. */
  readonly wrapper: URL
  /** What runs containers; looks for podman and docker without it. */
  readonly engine?: () => Promise<Engine | undefined>
  readonly clock?: Clock
}

export class LocalLauncher implements Launcher {
  readonly kind = 'local'
  readonly #root: string
  readonly #devices: Readonly<Record<string, number>> | undefined
  readonly #wrapper: URL
  readonly #engine: () => Promise<Engine | undefined>
  readonly #clock: Clock

  constructor({ root, devices, wrapper, engine, clock = systemClock }: LocalLauncherOptions) {
    assert(isAbsolute(root), 'the folder of runs is absolute')
    mkdirSync(root, { recursive: true, mode: 0o700 })
    clearLeftovers(root)
    this.#root = root
    this.#devices = devices
    this.#wrapper = wrapper
    this.#engine = engine ?? (() => findEngine(process.env))
    this.#clock = clock
  }

  async submit(request: RunRequest): Promise<Submission> {
    const wrong = whatIsWrong(request)
    if (wrong !== undefined) return refuse('invalid', wrong)
    const folder = this.#folder(request.id)
    const { secrets = {} } = request
    const stored = storedRequest.parse({ ...request, secretNames: Object.keys(secrets) })
    if (!existsSync(folder)) {
      const engine = request.container && (await this.#engine())
      if (request.container !== undefined && engine === undefined) return refuse('no_engine', engineMissing)
      const assigned = this.#assign(request.devices, request.members)
      if (assigned === undefined) return refuse('no_devices')
      createFolderOnce(folder, (fresh) => {
        writeSecret(join(fresh, names.request), stored)
        if (engine !== undefined) writeSecret(join(fresh, names.engine), engine)
        if (request.container?.login !== undefined) writeLogin(fresh, request.container.login)
        for (const [index, indices] of assigned.entries())
          addMember(memberFolder(fresh, index), { type: request.devices?.type, indices })
      })
    }
    const known = readStored(storedRequest, join(folder, names.request))
    if (known === undefined) return refuse('cancelled')
    if (!isDeepStrictEqual(known, stored)) return refuse('id_taken')
    if (readCancel(folder) !== undefined) return refuse('cancelled', 'The run was cancelled.')
    this.#startMembers(known, folder, secrets)
    return { ok: true }
  }

  async observe(id: string): Promise<Observation> {
    const folder = this.#folder(id)
    if (!existsSync(folder)) return { known: false, cancelled: false, members: [] }
    const cancelled = readCancel(folder) !== undefined
    return { known: true, cancelled, members: this.#members(id) }
  }

  async logs(id: string, { member, cursor, bytesMax }: LogQuery): Promise<LogPage> {
    const folder = memberFolder(this.#folder(id), member)
    if (!existsSync(folder))
      return { lines: [], cursor: cursor ?? '1:0', skipped: false, complete: !existsSync(this.#folder(id)) }
    // Asked before reading: what is written between the two is then read by the next page.
    const { state } = observeMember(id, this.#folder(id), member, this.#clock)
    return readLog(folder, cursor, bytesMax, state === 'ended' || state === 'lost')
  }

  async cancel(id: string, graceMs: number): Promise<void> {
    const folder = this.#folder(id)
    const note = JSON.stringify({ graceMs, atMs: this.#clock.unixMs() })
    // Never submitted: the folder is taken, so that a submit that is still on its way finds it.
    const isFirst = createFolderOnce(folder, (fresh) =>
      writeSecret(join(fresh, names.cancel), JSON.parse(note)),
    )
    if (isFirst) return
    const before = readCancel(folder)
    const isEarlier = before === undefined || this.#clock.unixMs() + graceMs < before.atMs + before.graceMs
    if (isEarlier) writeFileAtomic(join(folder, names.cancel), note)
    for (const index of memberIndices(folder)) this.#remind(id, index)
  }

  async scale(id: string, members: number, graceMs: number): Promise<Submission> {
    const folder = this.#folder(id)
    const request = existsSync(folder) ? readStored(storedRequest, join(folder, names.request)) : undefined
    if (request === undefined) return refuse('invalid', 'There is no run of this id to scale.')
    if ((request.secretNames ?? []).length > 0)
      return refuse('invalid', 'A run with secrets has the members that it was submitted with.')
    if (members < 0 || members > membersMax) return refuse('invalid', `A run has 0 to ${membersMax} members.`)
    if (readCancel(folder) !== undefined) return refuse('cancelled', 'The run was cancelled.')
    const staying = this.#members(id)
      .filter(({ state }) => state === 'starting' || state === 'running')
      .filter(({ index }) => !existsSync(join(memberFolder(folder, index), names.cancel)))
    for (const { index } of staying.slice(members)) {
      writeFileAtomic(
        join(memberFolder(folder, index), names.cancel),
        JSON.stringify({ graceMs, atMs: this.#clock.unixMs() }),
      )
      this.#remind(id, index)
    }
    const assigned = this.#assign(request.devices, Math.max(0, members - staying.length))
    if (assigned === undefined) return refuse('no_devices')
    const next = (memberIndices(folder).at(-1) ?? -1) + 1
    for (const [offset, indices] of assigned.entries()) {
      createFolderOnce(memberFolder(folder, next + offset), (fresh) =>
        addMember(fresh, { type: request.devices?.type, indices }),
      )
    }
    this.#startMembers(request, folder, {})
    return { ok: true }
  }

  async listOwned(): Promise<readonly string[]> {
    return readdirSync(this.#root).filter(isRunId)
  }

  async remove(id: string): Promise<boolean> {
    const { cancelled, known, members } = await this.observe(id)
    if (!known) return true
    const isLive = members.some(({ state }) => state === 'starting' || state === 'running')
    if (isLive || (members.length === 0 && !cancelled)) return false
    removeFolder(this.#folder(id))
    return true
  }

  #folder(id: string): string {
    assert(isRunId(id), `${id} can be the name of a run`)
    return join(this.#root, id)
  }

  #members(id: string): MemberObservation[] {
    const folder = this.#folder(id)
    return memberIndices(folder).map((index) => observeMember(id, folder, index, this.#clock))
  }

  /** Device indices for so many new members, or undefined when there are too few. */
  #assign(demand: RunRequest['devices'], members: number): number[][] | undefined {
    if (demand === undefined) return Array.from({ length: members }, () => [])
    const taken = new Set<number>()
    for (const id of readdirSync(this.#root).filter(isRunId)) {
      for (const { index, state, devices } of this.#members(id)) {
        if (state === 'ended' || state === 'lost') continue
        const stored = readStored(memberDevices, join(memberFolder(this.#folder(id), index), names.devices))
        if (stored?.type === demand.type) for (const device of devices) taken.add(device)
      }
    }
    const total =
      this.#devices === undefined
        ? membersMax * demand.perMember
        : (ownValue(this.#devices, demand.type) ?? 0)
    return freeDevices(total, taken, demand.perMember, members)
  }

  #startMembers(request: StoredRequest, folder: string, secrets: Readonly<Record<string, string>>): void {
    for (const index of memberIndices(folder)) {
      const own = memberFolder(folder, index)
      if (!existsSync(join(own, names.claim))) this.#startWrapper(request, own, index, secrets)
    }
  }

  #startWrapper(
    request: StoredRequest,
    folder: string,
    index: number,
    secrets: Readonly<Record<string, string>>,
  ): void {
    const { indices, type } = readStored(memberDevices, join(folder, names.devices)) ?? { indices: [] }
    const path = this.#wrapper.pathname
    const errors = openSync(join(folder, 'wrapper.log'), 'a', 0o600)
    const own = { ...request.environment, ...secrets, ...request.memberEnvironments?.[index] }
    const isSeen = (name: string) => request.container === undefined || name in secrets || !isOfEngine(name)
    const wrapper = spawn(process.execPath, [...runnerOf(path), path, folder], {
      cwd: '/',
      detached: true,
      stdio: ['ignore', errors, errors],
      env: {
        ...passedOn(process.env),
        ...(request.container !== undefined && engineEnvironment(process.env)),
        ...Object.fromEntries(Object.entries(own).filter(([name]) => isSeen(name))),
        ...(indices.length > 0 && { ROPEWAY_DEVICES: indices.join(',') }),
        ...(indices.length > 0 && type !== 'cpu' && { CUDA_VISIBLE_DEVICES: indices.join(',') }),
        ROPEWAY_ADDRESS_FILE: join(folder, names.address),
        [runLabel]: request.id,
        [memberLabel]: String(index),
        [folderLabel]: folder,
      },
    })
    closeSync(errors)
    // A wrapper that cannot start leaves its member unclaimed, and the next submit tries again.
    wrapper.on('error', () => undefined)
    wrapper.unref()
  }

  /**
   * Has the member's wrapper read the note of a cancel; one that read it takes a second reminder as well. Where the
   * wrapper is gone, a look ends what it left.
   */
  #remind(id: string, index: number): void {
    const folder = this.#folder(id)
    const wrapper = wrapperOf(memberFolder(folder, index))
    if (wrapper !== undefined) sendSignal(wrapper.pid, 'SIGTERM')
    else observeMember(id, folder, index, this.#clock)
  }
}

function addMember(folder: string, devices: { type: string | undefined; indices: number[] }): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  writeSecret(join(folder, names.devices), devices)
}

function whatIsWrong({ id, command, folder, members }: RunRequest): string | undefined {
  if (!isRunId(id)) return `${id} cannot be the id of a run.`
  if (command.length === 0 || command[0] === '') return 'There is no program to run.'
  if (command.some((part) => part.includes('\0'))) return 'A program and its arguments hold no zero bytes.'
  if (!isAbsolute(folder)) return 'The folder must be absolute.'
  if (!existsSync(folder)) return `The folder ${folder} is not there.`
  if (members < 1 || members > membersMax) return `A run has 1 to ${membersMax} members.`
  return undefined
}
