import type { CanaryTest } from '../../api/control/deployments.ts'

/** What the gateway has counted of one version. */
export interface VersionRecord {
  readonly requests: number
  readonly failures: number
  /** Milliseconds; undefined while nothing was observed lately. */
  readonly firstTokenP90Ms: number | undefined
}

export type Verdict = { is: 'open' } | { is: 'promote' | 'reject'; why: string }

/** Judges a canary by its own record since it got traffic, beside the version that serves. */
export function judge(
  test: CanaryTest,
  candidate: VersionRecord,
  serving: VersionRecord,
  elapsedMs: number,
): Verdict {
  const failed = share(candidate)
  const most = share(serving) + test.errorMargin
  // A canary that has failed more often than it may in all of its test cannot pass any more.
  if (candidate.failures > most * test.requests) {
    return {
      is: 'reject',
      why: `${candidate.failures} of ${candidate.requests} requests failed; ${percent(most)} may.`,
    }
  }
  if (candidate.requests >= test.requests) {
    if (failed > most)
      return { is: 'reject', why: `${percent(failed)} of its requests failed; ${percent(most)} may.` }
    const [own, other] = [candidate.firstTokenP90Ms, serving.firstTokenP90Ms]
    if (own !== undefined && other !== undefined && own > other * test.latencyFactor) {
      const allowed = Math.round(other * test.latencyFactor)
      return {
        is: 'reject',
        why: `p90 of its time to first token is ${Math.round(own)} ms; ${allowed} ms may be.`,
      }
    }
    return { is: 'promote', why: `${candidate.requests} requests, ${percent(failed)} of them failed.` }
  }
  if (elapsedMs > test.limitSeconds * 1000) {
    return {
      is: 'reject',
      why: `It got ${candidate.requests} of ${test.requests} requests in the time it had.`,
    }
  }
  return { is: 'open' }
}

function share({ requests, failures }: VersionRecord): number {
  return requests === 0 ? 0 : failures / requests
}

function percent(share: number): string {
  return `${Number((share * 100).toFixed(2))} %`
}
