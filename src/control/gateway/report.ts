import type { GatewayMetrics, LatencyReport } from './metrics.ts'
import type { Deployment, Replica } from './replicas.ts'
import type { ReplicaGauges, Roster } from './roster.ts'

/** What windows remember. */
export const windowSecondsMax = 1800

interface VersionReport extends LatencyReport {
  readonly version: string
  readonly share: number
  /** Since the gateway began. */
  readonly requests: number
  readonly failures: number
}

interface ReplicaReport extends LatencyReport {
  readonly replica: string
  readonly version: string
  readonly state: Replica['state']
  /** From this gateway. */
  readonly inFlight: number
  /** It failed lately and is left alone for a while. */
  readonly isEjected: boolean
  /** Its own last word: batch, queue and cache; null when it has not been heard for a while. */
  readonly gauges: (ReplicaGauges & { readonly cacheUsed: number }) | null
}

export interface DeploymentReport extends LatencyReport {
  readonly deployment: string
  readonly windowMs: number
  readonly versions: readonly VersionReport[]
  readonly replicas: readonly ReplicaReport[]
}

/** How a deployment does, as a whole, by version and by replica. */
export function reportOf(
  { name, versions }: Deployment,
  metrics: GatewayMetrics,
  roster: Roster,
  windowMs: number,
): DeploymentReport {
  return {
    ...{ deployment: name, windowMs },
    ...metrics.latency(name, windowMs),
    versions: versions.map(({ id, share }) => ({
      ...{ version: id, share },
      ...metrics.counters(name, id),
      ...metrics.latency(name, windowMs, id),
    })),
    replicas: versions.flatMap(({ id: version, replicas }) =>
      replicas.map(({ id, state }) => ({
        ...{ replica: id, version, state, inFlight: roster.inFlight(id), isEjected: roster.isEjected(id) },
        gauges: withShare(roster.gauges(id)),
        ...metrics.replicaLatency(id, windowMs),
      })),
    ),
  }
}

function withShare(gauges: ReplicaGauges | undefined): ReplicaReport['gauges'] {
  if (gauges === undefined) return null
  const { free, cached, held } = gauges.cacheBlocks
  const all = free + cached + held
  return { ...gauges, cacheUsed: all === 0 ? 0 : held / all }
}
