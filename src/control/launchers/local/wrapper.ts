/**
 * The parent of one member's command: a process of its own, so that the command survives the server and its end is
 * written down though nobody was there. It claims the member (whoever comes second leaves), starts the command in a
 * process group, keeps its log, carries out a cancel, and writes the result when nothing of the member is left: not
 * when it was killed, but when it is gone.
 */
import { spawn } from 'node:child_process'
import { closeSync, existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { assert } from '../../../base/assert.ts'
import { type Clock, systemClock } from '../../../base/clock.ts'
import { writeFileAtomic } from '../../../base/files.ts'
import { ContainerCommand } from './container-command.ts'
import { LineCutter, LogWriter, logBytesDefault } from './log-files.ts'
import { killMember } from './member-processes.ts'
import { whyNotStarted } from './not-started.ts'
import { openOutputPipe } from './output-pipe.ts'
import { folderNumber, identify, identifyChild, sendSignal } from './process-identity.ts'
import {
  type CancelNote,
  cancelNote,
  createOnce,
  type MemberResult,
  names,
  readStored,
  type StoredRequest,
  storedRequest,
} from './run-folder.ts'

type Sources = Readonly<Record<'out' | 'err', Readable>>

/** Output that grandchildren hold open is waited for so long after the command itself ended. */
const drainMs = 2_000
/** What is not gone yet is looked at again after so long. */
const againMsMin = 5
const againMsMax = 5_000
/** What both engines end with when a container could not be made, for want of its image for example. */
const engineFailed = 125

/** Runs the member in `folder` to its end. Resolves when its result is written, or at once when it is another's. */
export async function runWrapper(folder: string, clock: Clock = systemClock): Promise<void> {
  const runFolder = dirname(dirname(folder))
  const request = readStored(storedRequest, join(runFolder, names.request))
  // Removed before this process got so far.
  if (request === undefined) return
  // A cancel that comes between the claim and the command must find somebody listening.
  const listener = new CancelListener(runFolder, folder, clock)
  process.on('SIGTERM', () => listener.heed())
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined)
  // Of an error here (a full disk, for one): without its parent, nobody would see the command's end.
  process.on('exit', () => listener.kill())
  const own = identify(process.pid)
  assert(own, 'this process is alive')
  const claim = JSON.stringify({ ...own, folder: folderNumber(folder) })
  if (!createOnce(join(folder, names.claim), claim)) return
  const isCancelled = listener.note() !== undefined
  // A run that was cancelled may be removed with its note, between the claim and the look at the note.
  if (!isCancelled && !existsSync(join(folder, names.claim))) return
  const result = !isCancelled
    ? await runCommand(request, folder, listener, clock)
    : {
        endedMs: clock.unixMs(),
        message: 'It was cancelled before it started.',
        neverStarted: 'cancelled' as const,
      }
  createOnce(join(folder, names.result), JSON.stringify(result))
  listener.end()
}

async function runCommand(
  request: StoredRequest,
  folder: string,
  listener: CancelListener,
  clock: Clock,
): Promise<MemberResult> {
  const startedMs = clock.unixMs()
  const log = new LogWriter(folder, request.logBytesMax ?? logBytesDefault, () => clock.unixMs())
  const inContainer = request.container && new ContainerCommand(request, request.container, folder, startedMs)
  const [program, ...rest] = inContainer?.arguments ?? request.command
  const pipes = [openOutputPipe(folder, 'out'), openOutputPipe(folder, 'err')] as const
  const child = spawn(program!, rest, {
    cwd: request.folder,
    // The wrapper was given exactly what the command may see, labels included.
    env: process.env,
    stdio: ['ignore', ...pipes.map((pipe) => pipe?.fd ?? 'pipe')],
    detached: true,
  })
  const found = child.pid === undefined ? undefined : identifyChild(child.pid)
  const command = found && { ...found, folder: folderNumber(folder) }
  for (const pipe of pipes) if (pipe !== undefined) closeSync(pipe.fd)
  const sources = { out: pipes[0]?.source ?? child.stdout!, err: pipes[1]?.source ?? child.stderr! }
  let lastError = ''
  keepLog(sources, log, (text) => {
    lastError = text
  })
  const end = await new Promise<Omit<MemberResult, 'endedMs'>>((resolve) => {
    child.on('error', (error) => {
      const what = whyNotStarted(error, program!, request.folder)
      resolve({ message: `${program} could not be started: ${what}`, neverStarted: 'failed' })
    })
    child.on('exit', (exitCode, signal) =>
      resolve(exitCode === null ? { startedMs, signal: signal ?? 'unknown' } : { startedMs, exitCode }),
    )
    if (child.pid !== undefined) {
      listener.watch(child.pid, inContainer && (() => inContainer.terminate(child)))
      if (command !== undefined)
        writeFileAtomic(join(folder, names.process), JSON.stringify({ process: command, startedMs }))
    }
  })
  const isOfEngine = inContainer !== undefined && end.exitCode === engineFailed
  const isCancelled = !isOfEngine && listener.note() !== undefined
  const outlived = isCancelled ? await inContainer?.outlived(() => listener.leftMs()) : undefined
  await drained([sources.out, sources.err])
  const all = { run: request.id, member: Number(basename(folder)), folder, command, asParent: true }
  await untilNothingIsLeft(
    () => inContainer?.remove(),
    () => killMember(all),
    log,
  )
  log.close()
  const message = isOfEngine && { message: `The container could not be started: ${lastError}` }
  return { ...(outlived ?? end), ...message, endedMs: clock.unixMs() }
}

/**
 * What left the process group, or a container that its engine does not remove now, would go on using the member's
 * devices beside the next attempt; so the member has not ended before.
 */
async function untilNothingIsLeft(
  removeContainer: () => string | undefined,
  kill: () => number,
  log: LogWriter,
): Promise<void> {
  let said: string | undefined
  for (let pauseMs = againMsMin; ; pauseMs = Math.min(againMsMax, 2 * pauseMs)) {
    const container = removeContainer()
    if (container !== undefined && container !== said) log.line('err', container)
    said = container
    if (kill() === 0 && container === undefined) return
    await delay(pauseMs)
  }
}

function keepLog(sources: Sources, log: LogWriter, onError: (text: string) => void): void {
  for (const stream of ['out', 'err'] as const) {
    const source = sources[stream]
    const cutter = new LineCutter((text) => {
      log.line(stream, text)
      if (stream === 'err') onError(text)
    })
    source.on('data', (bytes: Uint8Array) => cutter.push(bytes))
    source.on('end', () => cutter.end())
  }
}

function drained(sources: readonly Readable[]): Promise<void> {
  const streams = sources.filter((stream) => !stream.readableEnded)
  if (streams.length === 0) return Promise.resolve()
  return new Promise((resolve) => {
    const finish = () => {
      clearTimeout(timer)
      for (const stream of streams) stream.destroy()
      resolve()
    }
    const timer = setTimeout(finish, drainMs)
    let open = streams.length
    for (const stream of streams) stream.on('close', () => --open === 0 && finish())
  })
}

/** Carries out a cancel: SIGTERM to the command at once, SIGKILL to its group when the grace is over. */
class CancelListener {
  readonly #paths: readonly string[]
  readonly #clock: Clock
  #group: number | undefined
  #tell: (() => unknown) | undefined
  #timer: NodeJS.Timeout | undefined
  #asked = false

  constructor(runFolder: string, folder: string, clock: Clock) {
    this.#paths = [join(runFolder, names.cancel), join(folder, names.cancel)]
    this.#clock = clock
  }

  /** The cancel that ends first, if there is one. */
  note(): CancelNote | undefined {
    const notes = this.#paths.flatMap((path) => readStored(cancelNote, path) ?? [])
    return notes.sort((a, b) => a.atMs + a.graceMs - b.atMs - b.graceMs)[0]
  }

  /** What is left of the grace. */
  leftMs(): number {
    const note = this.note()
    return note === undefined ? 0 : Math.max(0, note.atMs + note.graceMs - this.#clock.unixMs())
  }

  /** `tell` hands a SIGTERM to a command that is not in the group itself. */
  watch(group: number, tell?: () => unknown): void {
    this.#group = group
    this.#tell = tell
    if (this.note() !== undefined) this.heed()
  }

  heed(): void {
    if (this.#group === undefined || this.note() === undefined) return
    const group = this.#group
    if (!this.#asked) {
      if (this.#tell === undefined) sendSignal(-group, 'SIGTERM')
      else void this.#tell()
    }
    this.#asked = true
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => sendSignal(-group, 'SIGKILL'), this.leftMs())
  }

  kill(): void {
    if (this.#group !== undefined) sendSignal(-this.#group, 'SIGKILL')
  }

  end(): void {
    clearTimeout(this.#timer)
    this.#group = undefined
  }
}
