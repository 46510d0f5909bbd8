import { expect, test } from 'vitest'
import { database, history, killedOnce, stoppedAfterSave } from './history.ts'
import type { World } from './world.ts'

/**
 * ROPEWAY_SIM_SEED replays one seed; ROPEWAY_SIM_SEEDS runs so many, from ROPEWAY_SIM_FIRST. ROPEWAY_SIM_DATABASE=postgres
 * runs them on PostgreSQL. ROPEWAY_SIM_SECONDS ends a longer run in time and says how far it came.
 */
const only = process.env.ROPEWAY_SIM_SEED
const count = Number(process.env.ROPEWAY_SIM_SEEDS ?? 6)
const first = Number(process.env.ROPEWAY_SIM_FIRST ?? 0)
const seeds = only === undefined ? Array.from({ length: count }, (_, index) => first + index) : [Number(only)]
const secondsMax = Number(process.env.ROPEWAY_SIM_SECONDS ?? Number.POSITIVE_INFINITY)
const replay = (seed: number) =>
  `replay: ROPEWAY_SIM_SEED=${seed} npx vitest run test/jobs/simulation.test.ts`

test('no job vanishes or runs twice at once, whatever is lost, late, repeated, stale or killed', async () => {
  const startedMs = performance.now()
  let done = 0
  for (const seed of seeds) {
    if (performance.now() - startedMs > secondsMax * 1000) break
    const violations = await history(seed).catch((error) => [String(error)])
    expect(violations, replay(seed)).toEqual([])
    done++
  }
  if (Number.isFinite(secondsMax)) console.log(`${done} seeds from ${first}, each without a violation`)
}, 600_000)

const every = Number(process.env.ROPEWAY_SIM_EVERY ?? 11)

test('a server that is killed at the n-th call of its database, for every n, loses nothing', async () => {
  for (let n = 1; ; n += every) {
    const { violations, states } = await killedOnce(() => {
      database.dieIn = n
    })
    expect(violations, `killed at call ${n}`).toEqual([])
    expect(states[0], `killed at call ${n}`).toBe('success')
    if (database.dieIn > 0) break
  }
}, 600_000)

test('a server that is killed at the n-th call of its launcher, for every n, loses nothing', async () => {
  for (let n = 1; ; n++) {
    let armed: World | undefined
    const { violations, states } = await killedOnce((world) => {
      armed = world
      world.armLauncher(n)
    })
    expect(violations, `killed at call ${n}`).toEqual([])
    expect(states[0], `killed at call ${n}`).toBe('success')
    if (armed!.troubles === 0) break
  }
}, 600_000)

test('a job that saved and ended when it was asked to stop is stopped, and does not wait for its turn', async () => {
  expect(await stoppedAfterSave()).toEqual({ states: ['stopped'], violations: [] })
})
