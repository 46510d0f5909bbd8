import { expect, test } from 'vitest'
import { messageOf } from '../../src/base/errors.ts'
import { simulate } from './simulation.ts'

// One seed to replay, or how many seeds to run.
const only = process.env.ROPEWAY_SIM_SEED
const seedCount = Number(process.env.ROPEWAY_SIM_SEEDS ?? 120)

const seeds = only === undefined ? Array.from({ length: seedCount }, (_, seed) => seed) : [Number(only)]

test('random services keep every promise of the scheduler', { timeout: 3_600_000 }, async () => {
  const seen = { preemptions: 0, cachedTokens: 0, guessed: 0, stop: 0, length: 0, aborted: 0, failed: 0 }
  for (const seed of seeds) {
    try {
      const report = await simulate(seed)
      seen.preemptions += report.preemptions
      seen.cachedTokens += report.cachedTokens
      seen.guessed += report.guessed
      for (const { reason } of report.finishes.values()) seen[reason]++
    } catch (error) {
      const command = `ROPEWAY_SIM_SEED=${seed} npx vitest run test/serve/simulation.test.ts`
      throw new Error(`seed ${seed}: ${messageOf(error)}\nreplay: ${command}`, { cause: error })
    }
  }
  if (only !== undefined) return
  // The seeds reach what they are meant to test.
  for (const [what, times] of Object.entries(seen)) expect(times, what).toBeGreaterThan(0)
})
