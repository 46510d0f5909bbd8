/** A member's command in a container: how it is started, told to end, waited for behind its client, and taken away. */
import type { ChildProcess } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { assert } from '../../../base/assert.ts'
import {
  containerCommand,
  containerName,
  containerState,
  containerUser,
  type Engine,
  engine,
  exitCodeOf,
  giveMounts,
  isOfEngine,
  removeContainer,
  terminateContainer,
} from './containers.ts'
import { folderLabel, memberLabel, runLabel, sendSignal } from './process-identity.ts'
import { type MemberResult, memberDevices, names, readStored, type StoredRequest } from './run-folder.ts'

/** A container that is not ready for a SIGTERM is sent it again so much later. */
const againMs = 50

type End = Omit<MemberResult, 'endedMs'>

const neverStarted: End = {
  message: 'It was cancelled before its container started.',
  neverStarted: 'cancelled',
}

export class ContainerCommand {
  /** Of the client of the engine. */
  readonly arguments: readonly string[]
  readonly #engine: Engine
  readonly #name: string
  readonly #idFile: string
  /** With the labels, whoever ends a member that is late would end what takes its container away, too, at each look. */
  readonly #unlabelled: NodeJS.ProcessEnv
  readonly #startedMs: number
  #isTold = false

  constructor(
    request: StoredRequest,
    container: NonNullable<StoredRequest['container']>,
    folder: string,
    startedMs: number,
  ) {
    const { command, id, environment, memberEnvironments, secretNames = [] } = request
    const runFolder = dirname(dirname(folder))
    const found = readStored(engine, join(runFolder, names.engine))
    assert(found, 'a run with an image has its engine before its members')
    const member = Number(basename(folder))
    const name = containerName(id, member, folder)
    const devices = readStored(memberDevices, join(folder, names.devices))
    const own = { ...environment, ...memberEnvironments?.[member] }
    const user = containerUser()
    giveMounts(container, user)
    const loginFolder = join(runFolder, names.login)
    const isSecret = new Set(secretNames)
    const settings = Object.fromEntries(
      Object.entries(own).filter(([name]) => isOfEngine(name) && !isSecret.has(name)),
    )
    const variables = [...Object.keys(own), ...secretNames, runLabel, memberLabel, folderLabel].filter(
      (name) => name in process.env && !(name in settings),
    )
    const idFile = join(folder, names.container)
    this.arguments = containerCommand(found, {
      ...{ run: id, name, container, command, folder: request.folder, user, variables, settings, idFile },
      gpus: devices?.type === 'cpu' ? [] : (devices?.indices ?? []),
      ...(existsSync(loginFolder) && { loginFolder }),
    })
    const { [runLabel]: _run, [memberLabel]: _member, [folderLabel]: _folder, ...unlabelled } = process.env
    this.#engine = found
    this.#name = name
    this.#idFile = idFile
    this.#unlabelled = unlabelled
    this.#startedMs = startedMs
  }

  /** Hands a SIGTERM to the command, or where there is none yet, to what is about to start it. */
  async terminate(client: ChildProcess): Promise<void> {
    let isClientTold = false
    for (; isRunning(client); await delay(againMs)) {
      const hadContainer = this.#hasContainer()
      const answer = await terminateContainer(this.#engine, this.#name, this.#unlabelled)
      if (answer === 'told') this.#isTold = true
      // One that is missing now but was there has ended, and its client is about to say how.
      const isNowhere = answer === 'missing' && !hadContainer && !this.#hasContainer()
      // An image may be on its way for minutes. And a client listens in the time in which an engine hangs.
      if ((isNowhere || answer === 'hung') && !isClientTold && isRunning(client)) {
        isClientTold = true
        sendSignal(-client.pid!, 'SIGTERM')
      }
      // What may have been told once is not told again: many programs take that for "at once".
      if (answer === 'told' || answer === 'hung') return
    }
  }

  /**
   * How the command of a cancelled member ends that may be there without its client, within `leftMs`; undefined where the
   * client's own end is that of the command.
   */
  async outlived(leftMs: () => number): Promise<End | undefined> {
    if (!this.#hasContainer()) return neverStarted
    const state = await containerState(this.#engine, this.#name, this.#unlabelled)
    if (state === 'before') return neverStarted
    if (state !== 'running') return undefined
    if (!this.#isTold) await terminateContainer(this.#engine, this.#name, this.#unlabelled)
    const exitCode = await exitCodeOf(this.#engine, this.#name, this.#unlabelled, leftMs())
    const startedMs = this.#startedMs
    return exitCode === undefined ? { startedMs, signal: 'SIGKILL' } : { startedMs, exitCode }
  }

  /** Why the container may be there still; undefined once it is certain that it is not. */
  remove(): string | undefined {
    return removeContainer(this.#engine, this.#name, this.#unlabelled)
  }

  /** docker makes the file before there is an id to write. */
  #hasContainer(): boolean {
    return (statSync(this.#idFile, { throwIfNoEntry: false })?.size ?? 0) > 0
  }
}

function isRunning({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode === null && signalCode === null
}
