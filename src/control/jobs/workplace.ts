import type { RunRequest } from '../launchers/launcher.ts'
import type { News } from './reports.ts'
import type { JobRow } from './rows.ts'

export type Prepared = { ok: true; request: RunRequest } | { ok: false; message: string }

/** Where a cluster's jobs have their files. */
export interface Workplace {
  /** Makes all ready and says what to run, from the newest checkpoint. */
  prepare(row: JobRow, onNote: (text: string) => void): Promise<Prepared>
  /** What was reported since `row.status.read`, not necessarily all of it: ask until there is nothing. */
  read(row: JobRow, nowMs: number): News
  /** Whether the job's programs are asked for a checkpoint; they take the question back when they have saved. */
  askToSave(job: string, isAsked: boolean): void
  /** Whether the question stands before them. */
  isAskedToSave(job: string): boolean
  /** Removes all that is there of a job. */
  remove(job: string): void
}
