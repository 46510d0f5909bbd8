import type { DeviceTime } from '../usage/device-time.ts'
import type { DeploymentRow, DeploymentStatus, ReplicaEntry } from './rows.ts'

/** Time on devices is counted so often while a replica runs, and when it has ended. */
const countEveryMs = 60_000

/** What of the time of replicas is to be counted now, and the status that says that it was. */
export function deviceUse(
  { id, name, project_id, spec, status: before }: DeploymentRow,
  after: DeploymentStatus,
  nowMs: number,
): { times: DeviceTime[]; status: DeploymentStatus } {
  const left = new Set(after.replicas.map((entry) => entry.id))
  const isDue = (entry: ReplicaEntry) => nowMs - sinceOf(entry) >= countEveryMs
  const due = [
    ...before.replicas.filter((entry) => !left.has(entry.id)),
    ...after.replicas.filter((entry) => isDue(entry)),
  ]
  const times = due.map((entry): DeviceTime => {
    const demand = spec.versions.find((version) => version.id === entry.version)?.devices
    return {
      ...{ project: project_id, subject: id, name, fromMs: sinceOf(entry), toMs: nowMs },
      ...{ device: demand?.type ?? 'cpu', devices: demand?.count ?? 1 },
    }
  })
  const replicas = after.replicas.map((entry) => (isDue(entry) ? { ...entry, countedMs: nowMs } : entry))
  return { times, status: { ...after, replicas } }
}

function sinceOf({ countedMs, sinceMs }: ReplicaEntry): number {
  return countedMs ?? sinceMs
}
