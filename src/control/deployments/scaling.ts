import type { Scaling } from '../../api/control/deployments.ts'

export interface Load {
  /** Replicas that start or are ready. */
  readonly live: number
  readonly ready: number
  /** Requests at the ready ones, running and waiting. */
  readonly requests: number
  /** Somebody waits for a first replica. */
  readonly isWanted: boolean
  readonly lastActiveMs: number
  /** Since when fewer would do. */
  readonly lowSinceMs: number | undefined
  readonly firstTokenP90Ms: number | undefined
}

/**
 * How many replicas there should be. Up at once, as many as the requests need; down when fewer have been enough for a
 * while, so that a pause between two waves costs no loading of weights.
 */
export function wantedReplicas(
  scaling: Scaling,
  load: Load,
  nowMs: number,
): { count: number; lowSinceMs: number | undefined } {
  const { min, max, requestsPerReplica, firstTokenGoalMs, idleSeconds, downAfterSeconds } = scaling
  const isSlow =
    firstTokenGoalMs !== undefined &&
    load.firstTokenP90Ms !== undefined &&
    load.firstTokenP90Ms > firstTokenGoalMs &&
    load.requests > 0
  const byRequests = Math.ceil(load.requests / requestsPerReplica)
  const needed = Math.max(byRequests, isSlow ? load.ready + 1 : 0, load.isWanted ? 1 : 0)
  const isIdle = nowMs - load.lastActiveMs >= idleSeconds * 1000
  // The last one goes by its own rule: only after a while without any request.
  const floor = min === 0 && load.live > 0 && !isIdle ? 1 : min
  const count = Math.min(max, Math.max(floor, needed))
  if (count >= load.live || (isIdle && count === 0)) return { count, lowSinceMs: undefined }
  const lowSinceMs = load.lowSinceMs ?? nowMs
  if (nowMs - lowSinceMs < downAfterSeconds * 1000) return { count: Math.min(max, load.live), lowSinceMs }
  return { count, lowSinceMs: undefined }
}
