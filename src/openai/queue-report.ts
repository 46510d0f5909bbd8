import type { Exchange } from '../http/exchange.ts'
import type { QueueEstimate } from '../serve/request.ts'

/** Whether the client wants to know where its request stands: it sent `x-ropeway-queue: 1`. */
export function wantsQueue(exchange: Exchange): boolean {
  return exchange.header('x-ropeway-queue') === '1'
}

/** Where a request stood when the engine took it, for a client that asked; nine waits of ten lie in the band. */
export function queueHeaders(
  exchange: Exchange,
  estimate: QueueEstimate | undefined,
): Record<string, string> {
  if (!wantsQueue(exchange) || estimate === undefined) return {}
  return {
    'x-ropeway-queue-position': String(estimate.position),
    'x-ropeway-queue-expected-start-ms': whole(estimate.expectedStartMs),
    'x-ropeway-queue-low-ms': whole(estimate.lowMs),
    'x-ropeway-queue-high-ms': whole(estimate.highMs),
  }
}

export interface QueueReport {
  /** The estimate of now; undefined when the request does not wait (any more, or just now). */
  ask: () => Promise<QueueEstimate | undefined>
  /** True from the first sign of life of the request on. */
  isOver: () => boolean
  say: (comment: string) => void
}

/** Says now and every `everyMs` where a waiting request stands, until it is over or the returned call stops it. */
export function reportQueue({ ask, isOver, say }: QueueReport, everyMs: number): () => void {
  const report = async () => {
    if (isOver()) return stop()
    // An engine that cannot answer has no estimate; what became of the request, the stream itself will say.
    const estimate = await ask().catch(() => undefined)
    if (estimate !== undefined && !isOver()) say(commentOf(estimate))
  }
  const timer = setInterval(() => void report(), everyMs)
  const stop = () => clearInterval(timer)
  void report()
  return stop
}

function commentOf({ position, expectedStartMs, lowMs, highMs }: QueueEstimate): string {
  return (
    `queue position=${position} expected_start_ms=${whole(expectedStartMs)} ` +
    `low_ms=${whole(lowMs)} high_ms=${whole(highMs)}`
  )
}

function whole(ms: number): string {
  return String(Math.round(ms))
}
