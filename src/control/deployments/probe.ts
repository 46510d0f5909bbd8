import { ReplicaLost, type Upstreams } from '../gateway/upstream.ts'
import type { Probe } from './reconcile.ts'

const probeMs = 2_000

/** Asks a replica's own gauges. */
export function metricsProbe(upstreams: Upstreams): Probe {
  return async (url, key) => {
    try {
      const signal = AbortSignal.timeout(probeMs)
      return answerIn(await upstreams.get({ id: url, url, key, state: 'ready' }, '/metrics', signal))
    } catch (error) {
      if (error instanceof ReplicaLost) return undefined
      throw error
    }
  }
}

/** What a replica says of itself in Prometheus' text format. */
export function answerIn(metrics: string) {
  const numberAt = (series: string) => {
    const line = metrics.split('\n').find((text) => text.startsWith(`${series} `))
    return line === undefined ? 0 : Number(line.slice(series.length + 1))
  }
  return {
    isReady: numberAt('ropeway_engine_up') === 1,
    running: numberAt('ropeway_requests{state="running"}'),
    waiting: numberAt('ropeway_requests{state="waiting"}'),
    activity: numberAt('ropeway_prompt_tokens_total') + numberAt('ropeway_generated_tokens_total'),
  }
}
