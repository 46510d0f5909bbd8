import { expect, test } from 'vitest'
import { decide } from '../../src/control/jobs/decide.ts'
import { history } from './history.ts'

/** Rules that look right and are not: a history that shows it must come up soon. */
const planted: Record<string, typeof decide> = {
  'a run that is not seen is taken for lost': (job, observation, progress, nowMs) =>
    job.state === 'preparing' && !observation.known
      ? { do: 'move', to: 'waiting', reason: 'rank_lost', message: 'planted', notBeforeMs: nowMs }
      : decide(job, observation, progress, nowMs),
  'a lost rank sends the job back while others run': (job, observation, progress, nowMs) =>
    job.state === 'running' && observation.members.some(({ state }) => state === 'lost')
      ? { do: 'move', to: 'waiting', reason: 'rank_lost', message: 'planted', notBeforeMs: nowMs }
      : decide(job, observation, progress, nowMs),
  'the end of one rank is the end of the job': (job, observation, progress, nowMs) =>
    job.state === 'running' && observation.members.some(({ exitCode }) => exitCode === 0)
      ? { do: 'move', to: 'success', reason: 'finished', message: 'planted' }
      : decide(job, observation, progress, nowMs),
  'a preempted job goes back as soon as it was asked': (job, observation, progress, nowMs) =>
    job.state === 'stopping' && job.cause === 'preempted'
      ? { do: 'move', to: 'waiting', reason: 'preempted', message: 'planted', notBeforeMs: nowMs }
      : decide(job, observation, progress, nowMs),
  'a cancel is sent once and believed': (job, observation, progress, nowMs) => {
    const decision = decide(job, observation, progress, nowMs)
    return decision.do === 'cancel' && nowMs - job.sinceMs > 100 ? { do: 'wait' } : decision
  },
  'a job that saved and ended counts as done': (job, observation, progress, nowMs) =>
    decide({ ...job, saveAsked: false }, observation, progress, nowMs),
  'a failure that is final is tried again': (job, observation, progress, nowMs) =>
    decide(job, observation, { ...progress, failure: undefined }, nowMs),
  'a job that was stopped counts as done': (job, observation, progress, nowMs) => {
    const decision = decide(job, observation, progress, nowMs)
    return decision.do === 'move' && decision.to === 'stopped' && job.state === 'stopping'
      ? { ...decision, to: 'success' }
      : decision
  },
}
const plantedSeedsMax = 40

for (const [fault, rule] of Object.entries(planted)) {
  test(`the simulation finds out when ${fault}`, async () => {
    for (let seed = 0; seed < plantedSeedsMax; seed++) {
      const violations = await history(seed, rule).catch((error) => [String(error)])
      if (violations.length > 0) return
    }
    expect.fail(`${plantedSeedsMax} histories did not show it`)
  }, 300_000)
}
