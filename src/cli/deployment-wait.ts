import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from '../api/control/client.ts'
import { type DeploymentView, showDeployment } from '../api/control/deployments.ts'
import { UserError } from '../base/errors.ts'
import { ProgressLine } from './terminal.ts'

const pollMs = 100
/** A replica gets half an hour to get ready; whoever waits for one here has a model of some gigabytes at most. */
const waitMsMax = 15 * 60_000

/**
 * The deployment once its newest version answers, all requests or its share of them. Throws UserError when that fails, or takes too long, and whatever
 * `signal` says when it is aborted.
 */
export async function untilServing(
  client: Client,
  params: { project: string; deployment: string },
  signal?: AbortSignal,
): Promise<DeploymentView> {
  const shown = new ProgressLine()
  const endMs = performance.now() + waitMsMax
  let told = ''
  let wasOnItsWay = false
  try {
    for (;;) {
      const view = await client.call(showDeployment, { params, signal })
      const { state, serving, target, candidate, message, name } = view
      if ((state === 'ready' || state === 'idle') && serving === target) return view
      if (candidate !== null && candidate.share > 0) return view
      const isRejected = wasOnItsWay && candidate === null && serving !== target
      wasOnItsWay ||= candidate?.version === target
      if (state === 'failing' || isRejected) {
        throw new UserError(
          isRejected ? `${target} of ${name} was not taken.` : `${name} does not get ready: ${message}`,
          {
            fix: `ropeway deployment events ${name} says what happened, ropeway deployment logs ${name} what was printed.`,
          },
        )
      }
      if (performance.now() > endMs)
        throw new UserError(`${name} is not ready yet: ${message}`, { failure: 'timed_out' })
      if (message !== told) shown.note(message)
      told = message
      await delay(pollMs, undefined, { ...(signal !== undefined && { signal }) })
    }
  } finally {
    shown.end()
  }
}
