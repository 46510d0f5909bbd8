/** The one place that moves a job from state to state: row, attempt and event in one transaction. */
import { assert } from '../../base/assert.ts'
import { recordEvent } from '../store/events.ts'
import type { NounChanges, Nouns } from '../store/nouns.ts'
import { storable } from '../store/values.ts'
import { countDevices } from './device-use.ts'
import { writeNotice } from './notices.ts'
import type { JobRow, JobStatus, JobTables } from './rows.ts'
import { isActive, isFinal, type JobState, mayFollow, type Reason } from './states.ts'

export interface Transition {
  to: JobState
  reason: Reason
  message: string
  /** Changes of the status beside reason and message. */
  status?: Partial<JobStatus>
  row?: NounChanges<JobRow>
  details?: Record<string, unknown>
}

/** What a job does between states is told to whoever wants to know, after it is written. */
export type TransitionListener = (row: JobRow, before: JobState) => void

/** Undefined when somebody else wrote the row since it was read; nothing has changed then. */
export async function moveJob(
  jobs: Nouns<JobRow>,
  row: JobRow,
  { to, reason, message, status, row: changes, details = {} }: Transition,
  onMoved?: TransitionListener,
): Promise<JobRow | undefined> {
  assert(mayFollow(row.state, to), `a job does not go from ${row.state} to ${to}`)
  const { store } = jobs
  const nowMs = store.clock.unixMs()
  const isLeaving = isActive(row.state) && !isActive(to)
  const { cause: _, waitsFor: __, silentSinceMs: ___, silenceTold: ____, ...rest } = row.status
  const { saveAskedMs, countedMs, failure, ...kept } = rest
  // What was asked of an attempt that is over is not asked of the next; nor is its time counted on.
  const ofAttempt = isActive(to) && {
    ...(saveAskedMs !== undefined && { saveAskedMs }),
    ...(failure !== undefined && isActive(row.state) && { failure }),
    countedMs: isActive(row.state) ? (countedMs ?? row.since) : nowMs,
  }
  return await store.transaction(async () => {
    const moved = await jobs.update(row, {
      state: to,
      since: nowMs,
      due_at: nowMs,
      ...(isLeaving && { cluster: null, run_id: null, preempted: 0 }),
      ...(isFinal(to) && { stop_requested: 0 }),
      ...changes,
      status: {
        ...kept,
        ...ofAttempt,
        ...(isFinal(to) && { endedMs: nowMs }),
        ...(to === 'stopping' && { cause: reason }),
        ...status,
        reason,
        message: storable(message),
      },
    })
    if (moved === undefined) return undefined
    if (isLeaving) {
      await endAttempt(jobs, row, nowMs)
      await countDevices(store, row, nowMs)
    }
    await recordEvent(store, {
      subject: row.id,
      project: row.project_id,
      kind: `job.${to}`,
      message,
      details: { from: row.state, reason, attempt: moved.attempt, ...details },
    })
    await writeNotice(store, moved)
    if (onMoved !== undefined) store.afterCommit(() => onMoved(moved, row.state))
    return moved
  })
}

async function endAttempt({ store }: Nouns<JobRow>, row: JobRow, nowMs: number): Promise<void> {
  assert(row.run_id !== null, 'a job with devices has an attempt')
  await store
    .db<JobTables>()
    .updateTable('job_attempts')
    .set({ ended_at: nowMs })
    .where('run_id', '=', row.run_id)
    .execute()
}
