/** Start, end, failure and faults as messages of Slack's incoming web hooks, which others take too: `{text}`. */
import type { RunEvent, Sink } from './sink.ts'

export class WebHook implements Sink {
  readonly name = 'The web hook'
  readonly #url: string
  readonly #run: string
  #loss: number | undefined

  /** The address is a secret: whoever has it can write. */
  constructor(url: string, run: string) {
    this.#url = url
    this.#run = run
  }

  async write(events: readonly RunEvent[], signal: AbortSignal): Promise<void> {
    for (const event of events) {
      if (event.kind === 'metrics') this.#loss = event.values.loss ?? this.#loss
      const text = this.#textOf(event)
      if (text === undefined) continue
      const response = await fetch(this.#url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ text }),
        redirect: 'error',
        signal,
      }).catch((error: Error) => {
        // The platform's message may repeat the address.
        throw new Error(error.name === 'TimeoutError' ? 'no answer in time' : 'it cannot be reached')
      })
      await response.body?.cancel()
      if (!response.ok) throw new Error(`status ${response.status}`)
    }
  }

  #textOf(event: RunEvent): string | undefined {
    const run = this.#run
    switch (event.kind) {
      case 'start': {
        const resumed = event.stepsDone > 0 ? `, going on after step ${event.stepsDone}` : ''
        return `Training of ${run} began: ${event.steps} steps${resumed}.`
      }
      case 'end': {
        const loss = this.#loss === undefined ? '' : `, loss ${this.#loss.toFixed(4)}`
        if (event.outcome === 'failed')
          return `Training of ${run} failed after step ${event.step}: ${event.message}`
        const how = event.stoppedEarly ? 'stopped early' : event.outcome
        const { best } = event
        const earlier =
          best === undefined || best === event.step ? '' : `; the best checkpoint is of step ${best}`
        return `Training of ${run} ${how} after step ${event.step}${loss}${earlier}.`
      }
      case 'fault':
        return `Training of ${run}, step ${event.step}: ${event.text}`
      case 'checkpoint':
      case 'metrics':
        return undefined
    }
  }
}
