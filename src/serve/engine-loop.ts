import type { Clock } from '../base/clock.ts'
import { messageOf, UserError } from '../base/errors.ts'
import type { Engine } from './engine.ts'
import type { FromEngine, ToEngine } from './messages.ts'
import type { EngineRequest } from './request.ts'

/** How adapters get into the device and out of it. */
export interface AdapterLoader {
  /** Rejects with a UserError when the adapter cannot be served. */
  load(id: string, folder: string): Promise<void>
  unload(id: string): void
}

/**
 * Drives an engine and takes its messages. Between iterations the event loop gets its turn, so that what
 * was sent during one iteration is in force before the next is planned; without work it sleeps.
 */
export class EngineLoop {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #send: (message: FromEngine) => void
  readonly #adapters: AdapterLoader | undefined
  /** Requests whose constraint is being made elsewhere. */
  readonly #held = new Map<string, 'wanted' | 'cancelled'>()
  #wake: (() => void) | undefined
  /** Whether something arrived since the last step began: then there is no sleep before the next. */
  #roused = false
  #drainUntilMs: number | undefined

  constructor(engine: Engine, clock: Clock, send: (message: FromEngine) => void, adapters?: AdapterLoader) {
    this.#adapters = adapters
    this.#engine = engine
    this.#clock = clock
    this.#send = send
  }

  receive(message: ToEngine): void {
    const engine = this.#engine
    switch (message.type) {
      case 'submit':
        this.#submit(message.request)
        break
      case 'cancel':
        if (this.#held.has(message.id)) this.#held.set(message.id, 'cancelled')
        engine.cancel(message.id)
        break
      case 'gauges':
        this.#send({ type: 'gauges', reply: message.reply, gauges: engine.gauges() })
        break
      case 'queue': {
        const estimate = engine.estimate(message.id)
        this.#send({ type: 'queue', reply: message.reply, ...(estimate !== undefined && { estimate }) })
        break
      }
      case 'load_adapter':
        void this.#load(message.reply, message.id, message.folder)
        break
      case 'unload_adapter':
        this.#unload(message.id)
        break
      case 'drain':
        engine.close()
        this.#drainUntilMs = this.#clock.nowMs() + message.limitMs
    }
    this.#rouse()
  }

  #rouse(): void {
    this.#roused = true
    this.#wake?.()
  }

  #submit(request: EngineRequest): void {
    const waiting = this.#engine.prepare(request)
    if (waiting === undefined) {
      this.#admit(request)
      return
    }
    const { scheduler } = this.#engine
    if (this.#held.size >= scheduler.options.waitingMax) {
      const retryAfterMs = scheduler.retryAfterMs()
      this.#send({
        type: 'admission',
        id: request.id,
        admission: { ok: false, code: 'queue_full', retryAfterMs },
      })
      return
    }
    this.#held.set(request.id, 'wanted')
    void waiting.then((isReady) => {
      const wish = this.#held.get(request.id)
      this.#held.delete(request.id)
      if (isReady) this.#admit(request)
      else {
        const admission = { ok: false, code: 'constraint_unavailable' } as const
        this.#send({ type: 'admission', id: request.id, admission })
      }
      if (wish === 'cancelled') this.#engine.cancel(request.id)
      this.#rouse()
    })
  }

  #admit(request: EngineRequest): void {
    this.#send({ type: 'admission', id: request.id, admission: this.#engine.submit(request) })
  }

  async #load(reply: number, id: string, folder: string): Promise<void> {
    try {
      if (this.#adapters === undefined) throw new UserError('This engine takes no adapters.')
      await this.#adapters.load(id, folder)
      this.#send({ type: 'adapter', reply })
    } catch (error) {
      const { failure, fix } =
        error instanceof UserError ? error : { failure: 'failed' as const, fix: undefined }
      const told = { message: messageOf(error), failure, ...(fix !== undefined && { fix }) }
      this.#send({ type: 'adapter', reply, failure: told })
    }
  }

  /** A request that was cancelled may be in the iteration under way, so this waits for its end. */
  #unload(id: string): void {
    this.#engine.betweenIterations(() => {
      if (!this.#engine.uses(id)) this.#adapters?.unload(id)
    })
  }

  /** Runs until the engine is drained. Rejects when the engine itself is broken. */
  async run(): Promise<void> {
    for (;;) {
      this.#roused = false
      const worked = await this.#engine.step()
      if (this.#drained()) return
      if (worked || this.#roused) await new Promise((resolve) => setImmediate(resolve))
      else await this.#sleep()
    }
  }

  #drained(): boolean {
    if (this.#drainUntilMs === undefined) return false
    const isOver = this.#clock.nowMs() >= this.#drainUntilMs
    if (isOver) this.#engine.cancelAll()
    return this.#engine.live === 0 && (isOver || this.#held.size === 0)
  }

  async #sleep(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
    this.#wake = undefined
  }
}
