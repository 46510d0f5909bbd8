import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from '../api/control/client.ts'
import { type DeploymentView, showDeployment } from '../api/control/deployments.ts'
import { systemClock } from '../base/clock.ts'
import { UserError } from '../base/errors.ts'
import { duration, ProgressLine } from './terminal.ts'

const pollMs = 100
/** A replica gets half an hour to get ready; whoever waits for one here has a model of some gigabytes at most. */
const waitMs = 15 * 60_000

/**
 * The deployment once its newest version answers all requests or its share of them, or sleeps until it is asked. Throws
 * UserError when that fails or takes longer than `limitMs`, and whatever `signal` says when it is aborted.
 */
export async function untilServing(
  client: Client,
  params: { project: string; deployment: string },
  { signal, limitMs = waitMs }: { signal?: AbortSignal; limitMs?: number } = {},
): Promise<DeploymentView> {
  const shown = new ProgressLine()
  const endMs = systemClock.nowMs() + limitMs
  let told = ''
  let wasOnItsWay = false
  try {
    for (;;) {
      const view = await client.call(showDeployment, { params, signal })
      const { state, serving, target, candidate, message, name, scaling } = view
      const isThere = state === 'ready' || state === 'idle'
      if (isThere && (serving === target || scaling.min === 0)) return view
      if (candidate !== null && candidate.share > 0) return view
      const isRejected = wasOnItsWay && candidate === null && serving !== target
      wasOnItsWay ||= candidate?.version === target
      const fix = `ropeway deployment events ${name} says what happened, ropeway deployment logs ${name} what was printed.`
      if (isRejected) throw new UserError(`${target} of ${name} was not taken.`, { fix })
      if (state === 'failing') throw new UserError(`${name} does not get ready: ${message}`, { fix })
      if (systemClock.nowMs() > endMs)
        throw new UserError(`${name} is ${state} after ${duration(limitMs / 1000)}: ${message}`, {
          failure: 'timed_out',
          fix,
        })
      if (message !== told) shown.note(message)
      told = message
      await delay(pollMs, undefined, { ...(signal !== undefined && { signal }) })
    }
  } finally {
    shown.end()
  }
}
