/**
 * What happens next to a job that has devices: a pure function of its row, of what its launcher shows, and of the time.
 *
 * It is asked again and again, by whichever server looks after the job, and must come to a good end from any state
 * in which the ones before it died. One rule carries the rest: an attempt is left only when nothing of it runs and
 * nothing of it ever will. So no two attempts of a job run at the same time.
 */
import { isOver, type MemberObservation, type Observation, startAgainMs } from '../launchers/launcher.ts'
import { type JobState, type Reason, reasons } from './states.ts'

export interface AttemptView {
  readonly id: string
  readonly state: 'allocating' | 'preparing' | 'running' | 'stopping'
  /** Somebody asked to stop it. */
  readonly stopRequested: boolean
  /** The scheduler wants its devices. */
  readonly preempted: boolean
  /** Somebody asked this attempt for a checkpoint. */
  readonly saveAsked: boolean
  /** When it came into its state (Unix milliseconds, like all times here). */
  readonly sinceMs: number
  /** Why it is stopping. */
  readonly cause: Reason | undefined
  readonly retriesUsed: number
  /** The step of the newest checkpoint when the retries were counted last. */
  readonly retryStep: number
  readonly limits: AttemptLimits
}

export interface AttemptLimits {
  readonly retries: number
  readonly heartbeatMs: number
  readonly timeMs: number | undefined
}

/** What the ranks reported. */
export interface Progress {
  readonly lastEventMs: number | undefined
  readonly stepsDone: number
  readonly totalSteps: number | undefined
  readonly checkpointStep: number
  /** What a rank said of its failure before it ended; `final` when a retry would end the same. */
  readonly failure: { readonly text: string; readonly final: boolean } | undefined
}

export type Decision =
  /** Submit it (again): submits may be repeated. */
  | { do: 'submit' }
  /** Cancel it (again), and look later. */
  | { do: 'cancel' }
  | { do: 'wait' }
  | Move

export interface Move {
  do: 'move'
  to: JobState
  reason: Reason
  message: string
  /** Of a job that goes back to waiting: not before. */
  notBeforeMs?: number
  retriesUsed?: number
  retryStep?: number
}

/** A cluster that refused a job is asked again after so long. */
export const refusedAgainMs = 15_000
const backoffMsMin = 10_000
const backoffMsMax = 600_000

export function decide(
  job: AttemptView,
  observation: Observation,
  progress: Progress,
  nowMs: number,
): Decision {
  if (job.state === 'allocating') return begin(job, observation)
  if (isOver(observation)) return conclude(job, observation, progress, nowMs)
  if (job.state === 'stopping') return { do: 'cancel' }
  const stop = whyToStop(job, observation, progress, nowMs)
  if (stop !== undefined) return move('stopping', stop.reason, stop.message)
  if (!observation.known) return { do: 'submit' }
  const isStarting = observation.members.some(({ state }) => state === 'starting')
  if (isStarting) return nowMs - job.sinceMs > startAgainMs ? { do: 'submit' } : { do: 'wait' }
  return job.state === 'preparing' ? move('running', 'all_running') : { do: 'wait' }
}

function begin(job: AttemptView, { known, cancelled }: Observation): Decision {
  if (job.stopRequested) return move('stopping', 'stop_requested')
  if (job.preempted) return move('stopping', 'preempted')
  if (cancelled) return move('stopping', 'cancelled_outside')
  return known ? move('preparing', 'submitted') : { do: 'submit' }
}

function move(to: JobState, reason: Reason, message: string = reasons[reason]): Move {
  return { do: 'move', to, reason, message }
}

function whyToStop(
  job: AttemptView,
  { members, cancelled }: Observation,
  { lastEventMs }: Progress,
  nowMs: number,
): { reason: Reason; message?: string } | undefined {
  if (job.stopRequested) return { reason: 'stop_requested' }
  if (cancelled) return { reason: 'cancelled_outside' }
  const lost = members.find(({ state }) => state === 'lost')
  if (lost !== undefined) return { reason: 'rank_lost', message: `${describe(lost)} The others are stopped.` }
  const failed = firstFailure(members.filter(({ state }) => state === 'ended'))
  if (failed !== undefined)
    return { reason: 'rank_failed', message: `${describe(failed)} The others are stopped.` }
  if (job.preempted) return { reason: 'preempted' }
  if (job.state !== 'running') return undefined
  const silentMs = lastEventMs === undefined ? 0 : nowMs - Math.max(lastEventMs, job.sinceMs)
  if (silentMs > job.limits.heartbeatMs)
    return { reason: 'no_heartbeat', message: `It reported nothing for ${Math.round(silentMs / 1000)} s.` }
  if (job.limits.timeMs !== undefined && nowMs - job.sinceMs > job.limits.timeMs)
    return { reason: 'time_limit' }
  return undefined
}

/** Nothing of the attempt runs any more: what becomes of the job. */
function conclude(job: AttemptView, { members }: Observation, progress: Progress, nowMs: number): Move {
  const isWhole =
    members.length > 0 && members.every(({ state, exitCode }) => state === 'ended' && exitCode === 0)
  const asked = job.state === 'stopping' ? job.cause : undefined
  const { totalSteps = 0, stepsDone } = progress
  // Many programs end when they have saved on demand, as they would before they are stopped.
  if (isWhole && asked === undefined && job.saveAsked && stepsDone < totalSteps)
    return job.stopRequested
      ? move('stopping', 'stop_requested')
      : { ...move('waiting', 'saved'), notBeforeMs: nowMs }
  if (isWhole && (asked === undefined || wasDone(members, progress, job.sinceMs)))
    return move('success', 'finished')
  if (job.stopRequested && asked === undefined) return move('stopping', 'stop_requested')
  if (job.stopRequested || asked === 'stop_requested') return move('stopped', 'stopped')
  if (asked === 'time_limit' || asked === 'cannot_prepare') return move('failed', asked)
  if (asked === 'cannot_store') return move('failed', asked, progress.failure?.text)
  if (asked === 'preempted') return { ...move('waiting', 'preempted'), notBeforeMs: nowMs }
  if (asked === 'cluster_refused' || asked === 'no_engine')
    return { ...move('waiting', asked), notBeforeMs: nowMs + refusedAgainMs }
  const notStarted = members.find(({ neverStarted }) => neverStarted === 'failed')
  if (notStarted !== undefined) return move('failed', 'could_not_start', describe(notStarted))
  if (progress.failure?.final === true) return move('failed', 'cannot_succeed', progress.failure.text)
  const failed = firstFailure(members)
  const reason = asked ?? (failed === undefined || failed.state === 'lost' ? 'rank_lost' : 'exit_code')
  const why = progress.failure?.text ?? (failed === undefined ? reasons[reason] : describe(failed))
  return retry(job, reason, why, progress, nowMs)
}

/** It was asked to end, and ended with 0: was that the end of its work, or did it only do as it was told? */
function wasDone(members: readonly MemberObservation[], progress: Progress, askedMs: number): boolean {
  if (progress.totalSteps !== undefined) return progress.stepsDone >= progress.totalSteps
  return members.every(({ endedMs }) => endedMs !== undefined && endedMs < askedMs)
}

/** Retries count anew after progress: a job that fails once a day is not at its end after three days. */
function retry(job: AttemptView, reason: Reason, why: string, progress: Progress, nowMs: number): Move {
  const hasProgress = progress.checkpointStep > job.retryStep
  const retriesUsed = (hasProgress ? 0 : job.retriesUsed) + 1
  const retryStep = Math.max(job.retryStep, progress.checkpointStep)
  if (retriesUsed > job.limits.retries) {
    const exhausted = job.limits.retries === 0 ? reason : 'retries_exhausted'
    const tail =
      job.limits.retries === 0
        ? ''
        : ` That was after ${job.limits.retries === 1 ? 'one retry' : `${job.limits.retries} retries`}.`
    return { ...move('failed', exhausted, `${why}${tail}`), retriesUsed: retriesUsed - 1, retryStep }
  }
  const delayMs = Math.min(backoffMsMax, backoffMsMin * 2 ** (retriesUsed - 1))
  const from =
    progress.checkpointStep > 0 ? `its checkpoint of step ${progress.checkpointStep}` : 'the beginning'
  return {
    ...move(
      'waiting',
      reason,
      `${why} It goes on from ${from}, retry ${retriesUsed} of ${job.limits.retries}.`,
    ),
    notBeforeMs: nowMs + delayMs,
    retriesUsed,
    retryStep,
  }
}

/** The one that ended first in a way that was not 0: the others usually follow from it. */
function firstFailure(members: readonly MemberObservation[]): MemberObservation | undefined {
  return members
    .filter(({ state, exitCode, neverStarted }) =>
      state === 'lost' ? true : exitCode !== 0 && neverStarted !== 'cancelled',
    )
    .sort((a, b) => (a.endedMs ?? 0) - (b.endedMs ?? 0))[0]
}

function describe({ index, state, exitCode, signal, message }: MemberObservation): string {
  if (state === 'lost') return `Rank ${index} was lost. ${message ?? ''}`.trim()
  if (exitCode !== undefined) return `Rank ${index} ended with code ${exitCode}. ${message ?? ''}`.trim()
  if (signal !== undefined) return `Rank ${index} was ended by ${signal}.`
  return `Rank ${index} did not start: ${message ?? 'no reason was given'}`
}
