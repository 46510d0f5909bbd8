/** The rows of jobs and of what they need, as the database has them. */
import type { JobPlacement } from '../../api/control/jobs.ts'
import type { ClusterSpec } from '../../api/control/machines.ts'
import { type NounRow, Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import type { JobState, Reason } from './states.ts'

export interface JobSpec {
  readonly kind: 'train' | 'run'
  /** The job file, without its part `job:`. */
  readonly file: Readonly<Record<string, unknown>>
  readonly placement: JobPlacement
  /** Ranks of all nodes. */
  readonly processes: number
  readonly graceMs: number
  readonly workspace?: string
}

export interface JobStatus {
  readonly reason: Reason
  readonly message: string
  /** Why it is stopping, while it is. */
  readonly cause?: Reason
  /** Why it waits, in the scheduler's words. */
  readonly waitsFor?: string
  readonly startedMs?: number
  readonly endedMs?: number
  readonly retriesUsed: number
  readonly retryStep: number
  readonly stepsDone: number
  readonly totalSteps?: number
  readonly stepMs?: number
  readonly lastReportMs?: number
  readonly checkpointStep: number
  /** Since when a checkpoint is asked for that was not written yet. */
  readonly saveAskedMs?: number
  /** The attempt that was last asked for one. */
  readonly saveAttempt?: number
  readonly metrics: Readonly<Record<string, number | string>>
  /** How far the reports of the attempt were read, by rank. */
  readonly read: Readonly<Record<string, number>>
  /** Why the attempt is about to fail, in its program's own words. */
  readonly failure?: { readonly text: string; readonly final: boolean }
  /** Since when its cluster does not answer. */
  readonly silentSinceMs?: number
  readonly silenceTold?: boolean
  /** Until when the time of its devices is in the usage, while it has devices. */
  readonly countedMs?: number
}

export interface JobRow extends NounRow {
  readonly spec: JobSpec
  readonly status: JobStatus
  readonly state: JobState
  readonly since: number
  readonly priority: number
  readonly device_type: string
  readonly devices: number
  readonly wanted_cluster: string | null
  readonly cluster: string | null
  readonly queued_at: number
  readonly not_before: number
  readonly due_at: number
  readonly attempt: number
  readonly run_id: string | null
  readonly stop_requested: number
  readonly preempted: number
}

export interface AttemptRow {
  readonly run_id: string
  readonly job_id: string
  readonly project_id: string
  readonly attempt: number
  readonly cluster: string
  readonly device_type: string
  readonly devices: number
  readonly processes: number
  readonly started_at: number
  readonly ended_at: number | null
}

export interface MetricRow {
  readonly job_id: string
  readonly name: string
  readonly step: number
  readonly at: number
  readonly value: number | null
  readonly text: string | null
}

/** Clusters belong to the whole service: their `project_id` is empty. */
export interface ClusterRow extends NounRow {
  readonly spec: ClusterSpec
  readonly status: {
    /** No server has come up for it yet. */
    readonly awaited?: boolean
  }
}

/** Named by its device type. */
export interface QuotaRow extends NounRow {
  readonly devices: number
}

export interface JobTables {
  jobs: JobRow
  job_attempts: AttemptRow
  job_metrics: MetricRow
  clusters: ClusterRow
  quotas: QuotaRow
}

export function jobNouns(store: Store): Nouns<JobRow> {
  return new Nouns<JobRow>(store, 'jobs', 'job')
}

export function clusterNouns(store: Store): Nouns<ClusterRow> {
  return new Nouns<ClusterRow>(store, 'clusters', 'clu')
}

export function quotaNouns(store: Store): Nouns<QuotaRow> {
  return new Nouns<QuotaRow>(store, 'quotas', 'quo')
}

/** An attempt's id outside: the launcher's run. */
export function runIdOf(job: string, attempt: number): string {
  return `${job}-${attempt}`
}
