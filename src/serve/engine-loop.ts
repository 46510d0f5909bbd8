import type { Clock } from '../base/clock.ts'
import type { Engine } from './engine.ts'
import type { FromEngine, ToEngine } from './messages.ts'

/**
 * Drives an engine and takes its messages. Between iterations the event loop gets its turn, so that what
 * was sent during one iteration is in force before the next is planned; without work it sleeps.
 */
export class EngineLoop {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #send: (message: FromEngine) => void
  #wake: (() => void) | undefined
  /** Whether something arrived since the last step began: then there is no sleep before the next. */
  #roused = false
  #drainUntilMs: number | undefined

  constructor(engine: Engine, clock: Clock, send: (message: FromEngine) => void) {
    this.#engine = engine
    this.#clock = clock
    this.#send = send
  }

  receive(message: ToEngine): void {
    const engine = this.#engine
    switch (message.type) {
      case 'submit':
        this.#send({ type: 'admission', id: message.request.id, admission: engine.submit(message.request) })
        break
      case 'cancel':
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
      case 'drain':
        engine.close()
        this.#drainUntilMs = this.#clock.nowMs() + message.limitMs
    }
    this.#roused = true
    this.#wake?.()
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
    if (this.#clock.nowMs() >= this.#drainUntilMs) this.#engine.cancelAll()
    return this.#engine.live === 0
  }

  async #sleep(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
    this.#wake = undefined
  }
}
