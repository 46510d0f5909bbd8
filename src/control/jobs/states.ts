/** The states of a job, which may follow which, and why a job is where it is: closed tables, all of them. */
import type { jobStateNames } from '../../api/control/jobs.ts'

export type JobState = (typeof jobStateNames)[number]

/**
 * waiting -> allocating: the scheduler gave it devices, and its attempt an id. allocating -> preparing: the launcher
 * has it. preparing -> running: every rank runs. Whatever leaves allocating, preparing, running or stopping for a
 * state outside of these has an attempt of which nothing runs any more.
 */
export const nextStates = {
  waiting: ['allocating', 'stopped', 'failed'],
  allocating: ['preparing', 'stopping'],
  preparing: ['running', 'stopping', 'success', 'failed', 'waiting'],
  running: ['stopping', 'success', 'failed', 'waiting'],
  stopping: ['stopped', 'success', 'failed', 'waiting'],
  // Resume and retry.
  stopped: ['waiting'],
  failed: ['waiting'],
  success: [],
} as const satisfies { readonly [State in JobState]: readonly JobState[] }

export function mayFollow(from: JobState, to: JobState): boolean {
  return (nextStates[from] as readonly JobState[]).includes(to)
}

/** Those that hold devices. */
export const activeStates = ['allocating', 'preparing', 'running', 'stopping'] as const
/** Those that stay until somebody asks for something. */
export const finalStates = ['success', 'failed', 'stopped'] as const

export function isActive(state: JobState): boolean {
  return (activeStates as readonly JobState[]).includes(state)
}

export function isFinal(state: JobState): boolean {
  return (finalStates as readonly JobState[]).includes(state)
}

/** Why a job is in its state, in a word for programs; the sentence beside it is for people. */
export const reasons = {
  queued: 'It waits for its turn.',
  preempted: 'A job of higher priority needs its devices; it goes on from its checkpoint.',
  devices_given: 'It has its devices.',
  submitted: 'Its cluster has taken it.',
  all_running: 'Every rank runs.',
  stop_requested: 'Somebody asked to stop it.',
  rank_failed: 'A rank ended with a failure; the others are being stopped.',
  rank_lost: 'A rank was lost with its machine or its wrapper.',
  no_heartbeat: 'It reported nothing for longer than its heartbeat timeout.',
  cancelled_outside: 'Its run was cancelled by something else than its job.',
  time_limit: 'It ran for longer than its time limit.',
  cluster_refused: 'Its cluster refused it.',
  no_engine:
    'Its cluster runs no containers: install podman there, or docker with its service. It is asked again.',
  could_not_start: 'Its program could not be started.',
  exit_code: 'Its program ended with a failure.',
  cannot_succeed: 'Its program says that it would fail again.',
  retries_exhausted: 'It failed more often than its retries allow.',
  saved: 'It saved, as it was asked, and ended; it goes on from there.',
  finished: 'Every rank ended with 0.',
  stopped: 'It was stopped.',
  cannot_prepare: 'Its folder could not be prepared.',
  cannot_store: 'It reported what cannot be stored.',
} as const
export type Reason = keyof typeof reasons
