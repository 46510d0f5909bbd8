/**
 * The engine as a child process. A native abort ends that child only: it is started again, loads the model
 * again, and requests in flight go on from the tokens they had, because prompt, tokens and random state (a
 * seed and a count) are kept here. Clients notice a pause.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import { runnerOf } from '../../base/processes.ts'
import type { EngineClient, EngineGauges, EngineInfo } from '../messages.ts'
import { defaultSchedulerOptions } from '../options.ts'
import type { Admission, EngineRequest, Finish, QueueEstimate, RequestProgress } from '../request.ts'
import { EngineAdapters } from './adapter-desk.ts'
import type { EngineSetup, FromProcess, ToProcess } from './protocol.ts'

export interface EngineProcessOptions {
  setup: EngineSetup
  /** The file that the child runs; it calls `runEngineProcess`. */
  entry: URL
  onLoading?: (share: number) => void
  /** Told what takes a while before loading. */
  onNote?: (text: string) => void
  /** Told when the child died and what happens now. */
  onCrash?: (message: string) => void
  /** Gives up loading when it is aborted; once the engine is ready, `close` is the way. */
  signal?: AbortSignal
}

interface Flight {
  request: EngineRequest
  generated: number[]
  listener: (progress: RequestProgress) => void
  admitted: (admission: Admission) => void
  /** True once the first admission was answered; later ones follow a restart. */
  answered: boolean
  submittedMs: number
  /** What lives of the engine that ended took away, from the submission to the start of the present life. */
  lostMs: number
}

/** A child that keeps dying is given up after so many deaths within the window. */
const crashesMax = 5
const crashWindowMs = 120_000
/** Whoever is refused while the child loads again is told to come back after so long. */
const reloadRetryAfterMs = 5_000

/** Starts an engine and resolves when it takes requests; rejects with a UserError when it cannot load. */
export async function startEngine(options: EngineProcessOptions): Promise<EngineProcessClient> {
  const client = new EngineProcessClient(options)
  const stop = () => void client.close()
  options.signal?.addEventListener('abort', stop, { once: true })
  if (options.signal?.aborted) stop()
  try {
    await client.ready
    return client
  } finally {
    options.signal?.removeEventListener('abort', stop)
  }
}

export class EngineProcessClient implements EngineClient {
  readonly ready: Promise<void>
  readonly #options: EngineProcessOptions
  readonly #flights = new Map<string, Flight>()
  readonly #estimates = new Map<number, (estimate: QueueEstimate | undefined) => void>()
  readonly #gauges = new Map<
    number,
    { resolve: (gauges: EngineGauges) => void; reject: (error: Error) => void }
  >()
  readonly adapters = new EngineAdapters({
    load: (id, folder) => this.#loadAdapter(id, folder),
    unload: (id) => this.#send({ type: 'unload_adapter', id }),
  })
  readonly #loads = new Map<number, { resolve: () => void; reject: (error: Error) => void }>()
  #child: ChildProcess
  #info: EngineInfo | undefined
  #serving = false
  #closing = false
  #dead: string | undefined
  #replies = 0
  #crashes: number[] = []
  #closed: (() => void) | undefined
  #settleReady!: { resolve: () => void; reject: (error: Error) => void }

  constructor(options: EngineProcessOptions) {
    this.#options = options
    this.ready = new Promise((resolve, reject) => {
      this.#settleReady = { resolve, reject }
    })
    this.#child = this.#start()
  }

  get info(): EngineInfo {
    assert(this.#info, 'an engine is ready before its description is read')
    return this.#info
  }

  /** Also while a crashed child loads again: what comes then waits here, so that clients notice only a pause. */
  get accepting(): boolean {
    return this.#info !== undefined && this.#dead === undefined && !this.#closing
  }

  /** Process id of the child, for tests and for people with a debugger. */
  get pid(): number | undefined {
    return this.#child.pid
  }

  submit(request: EngineRequest, listener: (progress: RequestProgress) => void): Promise<Admission> {
    if (this.#closing || this.#dead !== undefined)
      return Promise.resolve({ ok: false, code: 'shutting_down' })
    if (this.#flights.has(request.id)) return Promise.resolve({ ok: false, code: 'duplicate_id' })
    if (!this.#serving && this.#flights.size >= this.#flightsMax)
      return Promise.resolve({ ok: false, code: 'queue_full', retryAfterMs: reloadRetryAfterMs })
    const adapter = request.adapter === undefined ? undefined : this.adapters.resolve(request.adapter)
    if (request.adapter !== undefined && adapter === undefined)
      return Promise.resolve({ ok: false, code: 'unknown_adapter' })
    return new Promise((admitted) => {
      const flight = {
        request: adapter === undefined ? request : { ...request, adapter },
        generated: [...(request.generated ?? [])],
        listener,
        admitted,
        answered: false,
        submittedMs: performance.now(),
        lostMs: 0,
      }
      this.#flights.set(request.id, flight)
      if (adapter !== undefined) this.adapters.take(adapter)
      // While a crashed child loads again, requests wait here and are sent when it is ready.
      if (this.#serving) this.#send({ type: 'submit', request: flight.request })
    })
  }

  cancel(id: string): void {
    const flight = this.#flights.get(id)
    if (flight === undefined) return
    if (this.#serving) this.#send({ type: 'cancel', id })
    else this.#end(flight, 'aborted', 'The request was cancelled.')
  }

  gauges(): Promise<EngineGauges> {
    if (!this.#serving)
      return Promise.reject(new UserError('The engine is not running.', { failure: 'unreachable' }))
    const reply = this.#replies++
    return new Promise((resolve, reject) => {
      this.#gauges.set(reply, { resolve, reject })
      this.#send({ type: 'gauges', reply })
    })
  }

  queue(id: string): Promise<QueueEstimate | undefined> {
    if (!this.#serving) return Promise.resolve(undefined)
    const reply = this.#replies++
    return new Promise((resolve) => {
      this.#estimates.set(reply, resolve)
      this.#send({ type: 'queue', reply, id })
    })
  }

  /** Lets running requests finish within the limit, then ends the child. */
  async close(limitMs = 0): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    const child = this.#child
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = new Promise<void>((resolve) => {
      this.#closed = resolve
    })
    if (this.#serving) this.#send({ type: 'drain', limitMs })
    else child.kill('SIGKILL')
    // The child ends itself at the limit; a second more and it is ended from here.
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs + 1000)
    await exited
    clearTimeout(timer)
  }

  get #flightsMax(): number {
    const { runningMax, waitingMax } = { ...defaultSchedulerOptions, ...this.#options.setup.scheduler }
    return runningMax + waitingMax
  }

  #start(): ChildProcess {
    const { entry, setup } = this.#options
    const child = fork(entry, [], {
      execArgv: runnerOf(entry.pathname),
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    child.on('message', (message) => this.#receive(message as FromProcess))
    child.on('error', (error) => this.#settleReady.reject(error))
    child.on('exit', (code, signal) => this.#exited(code, signal))
    child.send({ type: 'setup', setup } satisfies ToProcess)
    return child
  }

  #send(message: ToProcess): void {
    // A send can race with the child's death; its exit event then takes care of what was in flight.
    if (this.#child.connected) this.#child.send(message, () => undefined)
  }

  #receive(message: FromProcess): void {
    switch (message.type) {
      case 'loading':
        this.#options.onLoading?.(message.share)
        return
      case 'note':
        this.#options.onNote?.(message.text)
        return
      case 'ready':
        this.#info = message.info
        void this.#begin()
        return
      case 'fatal':
        this.#dead = message.message
        this.#settleReady.reject(
          new UserError(message.message, message.fix === undefined ? {} : { fix: message.fix }),
        )
        return
      case 'admission':
        this.#admit(message.id, message.admission)
        return
      case 'progress':
        for (const item of message.items) this.#progress(item)
        return
      case 'gauges':
        this.#gauges.get(message.reply)?.resolve(message.gauges)
        this.#gauges.delete(message.reply)
        return
      case 'adapter':
        this.#adapterLoaded(message)
        return
      case 'queue':
        this.#estimates.get(message.reply)?.(message.estimate)
        this.#estimates.delete(message.reply)
        return
      case 'drained':
        this.#serving = false
        return
    }
  }

  /** Takes up what waits for this life of the engine, once it has the adapters of the one before. */
  async #begin(): Promise<void> {
    const child = this.#child
    const lost = await this.adapters.restore()
    for (const one of lost) this.#options.onCrash?.(`After a restart an adapter could not be loaded: ${one}`)
    // It may have died over that.
    if (this.#child !== child || !child.connected) return
    this.#serving = true
    for (const flight of this.#flights.values()) this.#resubmit(flight)
    this.#settleReady.resolve()
  }

  #loadAdapter(id: string, folder: string): Promise<void> {
    if (this.#info === undefined || this.#dead !== undefined || !this.#child.connected)
      return Promise.reject(engineGone())
    const reply = this.#replies++
    return new Promise((resolve, reject) => {
      this.#loads.set(reply, { resolve, reject })
      this.#send({ type: 'load_adapter', reply, id, folder })
    })
  }

  #adapterLoaded({ reply, failure }: FromProcess & { type: 'adapter' }): void {
    const load = this.#loads.get(reply)
    this.#loads.delete(reply)
    if (failure === undefined) load?.resolve()
    else load?.reject(new UserError(failure.message, failure))
  }

  #forget({ request: { id, adapter } }: Flight): void {
    this.#flights.delete(id)
    if (adapter !== undefined) this.adapters.give(adapter)
  }

  #resubmit(flight: Flight): void {
    const { request, generated } = flight
    flight.lostMs = performance.now() - flight.submittedMs
    this.#send({ type: 'submit', request: generated.length > 0 ? { ...request, generated } : request })
  }

  #admit(id: string, admission: Admission): void {
    const flight = this.#flights.get(id)
    if (flight === undefined) return
    if (!flight.answered) {
      flight.answered = true
      const { adapter } = flight.request
      if (!admission.ok) this.#forget(flight)
      flight.admitted(admission.ok && adapter !== undefined ? { ...admission, adapter } : admission)
    } else if (!admission.ok) {
      this.#end(flight, 'failed', `After a restart the engine refused the request: ${admission.code}.`)
    }
  }

  #progress(item: RequestProgress): void {
    const flight = this.#flights.get(item.id)
    if (flight === undefined) return
    for (const token of item.tokens) flight.generated.push(token)
    if (item.finish === undefined) flight.listener(item)
    else {
      this.#forget(flight)
      flight.listener({ ...item, finish: withLostTime(item.finish, flight.lostMs) })
    }
  }

  #exited(code: number | null, signal: NodeJS.Signals | null): void {
    this.#serving = false
    const how = signal === null ? `exit code ${code}` : `signal ${signal}`
    for (const { reject } of this.#gauges.values())
      reject(new UserError('The engine stopped.', { failure: 'unreachable' }))
    this.#gauges.clear()
    for (const { reject } of this.#loads.values()) reject(engineGone())
    this.#loads.clear()
    for (const resolve of this.#estimates.values()) resolve(undefined)
    this.#estimates.clear()
    this.#closed?.()
    if (this.#closing) {
      this.#settleReady.reject(
        new UserError('Stopped while the model was loading.', { failure: 'interrupted' }),
      )
      this.#giveUp('The engine was shut down.', 'aborted')
      return
    }
    if (this.#info === undefined) {
      this.#dead ??= `The engine ended while loading (${how}).`
      this.#settleReady.reject(
        new UserError(this.#dead, { fix: 'Run with ROPEWAY_LOG=debug to see what the library said.' }),
      )
      return
    }
    const now = performance.now()
    this.#crashes = [...this.#crashes.filter((at) => now - at < crashWindowMs), now]
    if (this.#crashes.length > crashesMax) {
      this.#dead = `The engine ended ${this.#crashes.length} times within ${crashWindowMs / 1000} s (${how}).`
      this.#options.onCrash?.(`${this.#dead} It is not started again.`)
      this.#giveUp(this.#dead, 'failed')
      return
    }
    this.#options.onCrash?.(
      `The engine ended (${how}); it starts again with ${this.#flights.size} requests in flight.`,
    )
    this.#child = this.#start()
  }

  #giveUp(message: string, reason: 'failed' | 'aborted'): void {
    for (const flight of [...this.#flights.values()]) {
      if (flight.answered) this.#end(flight, reason, message)
      else {
        this.#forget(flight)
        flight.admitted({ ok: false, code: 'shutting_down' })
      }
    }
  }

  #end(flight: Flight, reason: 'failed' | 'aborted', message: string): void {
    this.#forget(flight)
    const finish: Finish = {
      reason,
      message,
      promptTokens: flight.request.prompt.length,
      cachedTokens: 0,
      generatedTokens: flight.generated.length,
      timing: { queueMs: 0, promptMs: 0, decodeMs: 0, waitingForBudgetMs: 0, preemptedMs: 0 },
    }
    if (!flight.answered) flight.admitted({ ok: true })
    flight.listener({ id: flight.request.id, tokens: [], finish })
  }
}

function engineGone(): UserError {
  return new UserError('The engine ended while the adapter was loading.', {
    failure: 'unreachable',
    fix: 'Publish it again when the engine is back.',
  })
}

/** Time before a restart is charged as the work that was lost, so that the parts add up to the whole latency. */
function withLostTime(finish: Finish, lostMs: number): Finish {
  const { timing } = finish
  return { ...finish, timing: { ...timing, preemptedMs: timing.preemptedMs + lostMs } }
}
