/** One history of the world of a seed, and a server that is killed once in a short one. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import type { decide } from '../../src/control/jobs/decide.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { isFinal } from '../../src/control/jobs/states.ts'
import { openStore, type Store } from '../../src/control/store/store.ts'
import { noFaults } from '../launchers/fake-launcher.ts'
import { PostgresServer } from '../store/postgres-server.ts'
import { DatabaseFaults, slots, World } from './world.ts'

const memory = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
const folder = mkdtempSync(join(memory, 'ropeway-jobs-'))
export const clock = new ManualClock(1_700_000_000_000)
export const database = new DatabaseFaults()
let server: PostgresServer | undefined
let store: Store

beforeAll(async () => {
  if (process.env.ROPEWAY_SIM_DATABASE === 'postgres') server = await PostgresServer.start()
  store = await openStore((await server?.database()) ?? join(folder, 'jobs.db'), {
    migrations: jobMigrations,
    clock,
    watch: database.watch,
  })
})
afterAll(async () => {
  await store.close()
  await server?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
})

const chaos = { lose: 0.05, loseReply: 0.05, delay: 0.03, delayMsMax: 20_000, repeat: 0.05, stale: 0.1 }
/** More of it, to find planted faults soon. */
const harsh = { ...chaos, lose: 0.15, loseReply: 0.1, delay: 0.1, stale: 0.3 }

async function attempt(world: World, work: () => Promise<unknown>): Promise<void> {
  // Whoever asks hears of refusals and of a database that does not answer; both leave the history whole.
  world.database.on = true
  await work().catch(() => world.troubles++)
  world.database.on = false
}

async function chaosRound(world: World, created: string[]): Promise<void> {
  const { random } = world
  world.clock.advance(200 + random.integer(1800))
  world.machine.settle()
  if (created.length < 7 && random.uniform() < 0.15) {
    await attempt(world, async () => {
      const work = {
        total: 5 + random.integer(60),
        failing: random.uniform() < 0.3 ? random.integer(6) : 0,
        hanging: random.uniform() < 0.15 ? 1 : 0,
        stubborn: random.uniform() < 0.2,
        final: random.uniform() < 0.15 ? 1 + random.integer(3) : 0,
        endsOnSave: random.uniform() < 0.5,
      }
      const job = await world.submit(
        `p${random.integer(2)}`,
        10 * random.integer(3),
        1 + random.integer(3),
        work,
      )
      created.push(job.id)
    })
  }
  const some = created[random.integer(Math.max(1, created.length))]
  if (some !== undefined && random.uniform() < 0.12) {
    const row = (await world.rows()).find(({ id }) => id === some)
    const verb = (['stop', 'resume', 'retry', 'save', 'save'] as const)[random.integer(5)]!
    if (row !== undefined) await attempt(world, () => world.jobs[verb](row.project_id, some))
  }
  if (random.uniform() < 0.03) {
    const [life] = world.machine.lives().filter(({ endMs }) => endMs === Number.POSITIVE_INFINITY)
    if (life !== undefined) world.machine.lose(life.run, life.index)
  }
  if (random.uniform() < 0.1) world.database.dieIn = 1 + random.integer(30)
  await world.round(random.integer(2))
  expect(await world.devicesGiven()).toBeLessThanOrEqual(slots.h100)
}

async function settle(world: World): Promise<void> {
  world.database.refuse = 0
  if (world.faults !== noFaults) world.database.dieIn = 0
  world.restart(noFaults)
  for (let round = 0; round < 1500; round++) {
    world.clock.advance(1000)
    world.machine.settle()
    await world.round(round % 2)
    const rows = await world.rows()
    if (rows.every(({ state }) => isFinal(state))) return
  }
}

/** One history; returns what is wrong with it. */
export async function history(seed: number, planted?: typeof decide): Promise<string[]> {
  const world = new World(store, clock, database, seed)
  world.planted = planted
  database.refuse = 0
  await world.begin()
  world.restart(planted === undefined ? chaos : harsh)
  database.random = world.random
  database.refuse = 0.01
  const created: string[] = []
  for (let round = 0; round < 150; round++) await chaosRound(world, created)
  await settle(world)
  // What was delayed may still arrive.
  clock.advance(60_000)
  world.machine.settle()
  return await world.violations(created)
}

/** A world without faults, begun anew. */
async function calmWorld(): Promise<World> {
  const world = new World(store, clock, database, 1)
  database.refuse = 0
  database.random = undefined
  database.dieIn = 0
  await world.begin()
  world.restart(noFaults)
  return world
}

/** A short life of two jobs, in which a server is killed once; returns what is wrong and whether it was killed. */
export async function killedOnce(
  arm: (world: World) => void,
): Promise<{ violations: string[]; states: string[] }> {
  const world = await calmWorld()
  const work = { total: 12, failing: 1, hanging: 0, stubborn: false, final: 0, endsOnSave: true }
  const first = await world.submit('p0', 10, 2, work)
  const second = await world.submit('p1', 20, 3, { ...work, failing: 0 })
  arm(world)
  for (let round = 0; round < 12; round++) {
    clock.advance(2500)
    world.machine.settle()
    if (round === 4) await attempt(world, () => world.jobs.stop('p1', second.id))
    if (round === 8) await attempt(world, () => world.jobs.save('p0', first.id))
    await world.round(0)
  }
  await settle(world)
  const rows = await world.rows()
  const states = [first, second].map(({ id }) => rows.find((row) => row.id === id)!.state)
  return { violations: await world.violations([first.id, second.id]), states }
}

/** A job that ends on a save, and is asked to stop before anybody has looked; returns its states since, and what is wrong. */
export async function stoppedAfterSave(): Promise<{ states: string[]; violations: string[] }> {
  const world = await calmWorld()
  const work = { total: 60, failing: 0, hanging: 0, stubborn: false, final: 0, endsOnSave: true }
  const { id } = await world.submit('p0', 10, 1, work)
  const stateOf = async () => (await world.rows())[0]!.state
  const next = async () => {
    clock.advance(2500)
    world.machine.settle()
    await world.round(0)
    return await stateOf()
  }
  for (let round = 0; round < 8 && (await stateOf()) !== 'running'; round++) await next()
  await world.jobs.save('p0', id)
  await world.round(0)
  clock.advance(2500)
  await world.jobs.stop('p0', id)
  const states: string[] = []
  for (let round = 0; round < 8; round++) {
    const state = await next()
    if (state !== states.at(-1)) states.push(state)
  }
  return { states, violations: await world.violations([id]) }
}
