import type { Candidate, DeploymentEvent, DeploymentSpec, DeploymentStatus, ReplicaEntry } from './rows.ts'
import { judge, type VersionRecord } from './verdict.ts'

export interface RolloutView {
  readonly spec: DeploymentSpec
  readonly status: DeploymentStatus
  /** A ready replica of a version. */
  readonly ready: (version: string) => ReplicaEntry | undefined
  readonly records: (version: string) => VersionRecord
  readonly nowMs: number
}

type Changes = Partial<Pick<DeploymentStatus, 'serving' | 'candidate' | 'previous' | 'served' | 'rejected'>>

export interface RolloutMove {
  readonly changes: Changes
  readonly events: readonly DeploymentEvent[]
  /** This replica has to answer the gate's questions now. */
  readonly ask?: ReplicaEntry
}

/**
 * The way of a version to the traffic: it becomes the candidate, gets a replica ready, answers the gate's questions,
 * shows itself as canary or shadow where that is asked for, and serves; or it is rejected on the way. A version that
 * has served before is waved through: a rollback takes as long as this look.
 */
export function advance(view: RolloutView): RolloutMove {
  const { spec, status, ready, nowMs } = view
  const { target } = spec
  const begun = begin(view)
  if (begun !== undefined) {
    // What is ready already need not wait for another look.
    const next = advance({ ...view, status: { ...status, ...begun.changes } })
    return {
      ...next,
      changes: { ...begun.changes, ...next.changes },
      events: [...begun.events, ...next.events],
    }
  }
  const { candidate } = status
  if (candidate === null) return nothing
  const replica = ready(candidate.version)
  if (replica === undefined) return nothing
  const isKnown = status.served.includes(target)
  if (candidate.gate === 'pending' && spec.rollout.gate !== undefined && !isKnown)
    return { ...nothing, ask: replica }
  const isShown = spec.rollout.canary !== undefined || spec.rollout.shadow !== undefined
  if (isKnown || !isShown || status.serving === null || spec.promoted === target)
    return promote(view, candidate, isKnown ? 'It has served before.' : 'It is ready.')
  if (candidate.judged === undefined) {
    const { requests, failures } = view.records(target)
    const judged = { sinceMs: nowMs, requests, failures }
    return { changes: { candidate: { ...candidate, gate: 'passed', judged } }, events: [shown(view)] }
  }
  return judged(view, candidate, candidate.judged)
}

const nothing: RolloutMove = { changes: {}, events: [] }

/** Makes the target the candidate, or lets go of one that is not the target any more. */
function begin({ spec, status, nowMs }: RolloutView): RolloutMove | undefined {
  const { target } = spec
  const { candidate, serving, rejected } = status
  if (candidate !== null && candidate.version !== target)
    return {
      changes: { candidate: null },
      events: [event('rollout_ended', `${candidate.version} is not wanted any more.`)],
    }
  if (candidate !== null || serving === target || rejected.includes(target)) return undefined
  return {
    changes: { candidate: { version: target, sinceMs: nowMs, gate: 'pending' } },
    events: [
      event('rollout_began', `${target} is to serve${serving === null ? '' : ` instead of ${serving}`}.`),
    ],
  }
}

function judged(
  view: RolloutView,
  candidate: Candidate,
  since: NonNullable<Candidate['judged']>,
): RolloutMove {
  const { spec, status, records, nowMs } = view
  const { test } = spec.rollout
  if (test === undefined) return nothing
  const all = records(candidate.version)
  // Counters begin anew with the gateway.
  const isReset = all.requests < since.requests
  const own = {
    ...all,
    requests: isReset ? all.requests : all.requests - since.requests,
    failures: isReset ? all.failures : all.failures - since.failures,
  }
  const verdict = judge(test, own, records(status.serving!), nowMs - since.sinceMs)
  if (verdict.is === 'promote') return promote(view, candidate, verdict.why)
  if (verdict.is === 'reject') return reject(status, candidate, verdict.why)
  return nothing
}

function promote({ spec, status, nowMs }: RolloutView, { version }: Candidate, why: string): RolloutMove {
  const { serving, served } = status
  const previous =
    serving === null ? null : { version: serving, untilMs: nowMs + spec.rollout.keepSeconds * 1000 }
  return {
    changes: { serving: version, candidate: null, previous, served: [...new Set([...served, version])] },
    events: [
      event('serving', `${version} serves${serving === null ? '' : ` instead of ${serving}`}. ${why}`),
    ],
  }
}

export function reject(status: DeploymentStatus, { version }: Candidate, why: string): RolloutMove {
  const stays = status.serving === null ? 'Nothing serves.' : `${status.serving} goes on.`
  return {
    changes: { candidate: null, rejected: [...status.rejected, version] },
    events: [event('rejected', `${version} is not taken: ${why} ${stays}`)],
  }
}

function shown({ spec }: RolloutView): DeploymentEvent {
  const { canary, shadow } = spec.rollout
  const parts = [
    ...(canary === undefined ? [] : [`${canary * 100} % of the requests`]),
    ...(shadow === undefined ? [] : [`copies of ${shadow * 100} % of them`]),
  ]
  return event('shown', `${spec.target} gets ${parts.join(' and ')}.`)
}

function event(kind: string, message: string): DeploymentEvent {
  return { kind: `deployment.${kind}`, message }
}
