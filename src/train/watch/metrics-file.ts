/** OUT/metrics.jsonl: every event as a line of JSON. A resumed run goes on in it; of a step, the last line counts. */
import { appendFile } from 'node:fs/promises'
import type { RunEvent, Sink } from './sink.ts'

export class MetricsFile implements Sink {
  readonly name: string
  readonly #path: string

  constructor(path: string) {
    this.name = path
    this.#path = path
  }

  async write(events: readonly RunEvent[]): Promise<void> {
    await appendFile(this.#path, events.map((event) => `${JSON.stringify(lineOf(event))}\n`).join(''))
  }
}

function lineOf(event: RunEvent): Record<string, unknown> {
  if (event.kind !== 'metrics') return { ...event }
  const { kind, atMs, step, values } = event
  return { kind, atMs, step, ...values }
}
