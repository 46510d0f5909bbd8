import { expect, test } from 'vitest'
import { deploymentInput } from '../../src/api/control/deployments.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { Deployments } from '../../src/control/deployments/deployments.ts'
import { deploymentMigrations } from '../../src/control/deployments/migration.ts'
import { moveDeployments } from '../../src/control/deployments/move.ts'
import { giveUpCluster, noteGone } from '../../src/control/jobs/gone.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { ensureCluster } from '../../src/control/jobs/machines.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { schedule } from '../../src/control/jobs/scheduler.ts'
import { beat, enterServer, goneMs } from '../../src/control/servers/servers.ts'
import { eventsOf } from '../../src/control/store/events.ts'
import { anything } from '../deployments/world.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'

async function open(databases: TestDatabases) {
  const clock = new ManualClock(1_700_000_000_000)
  const store = await databases.open({ migrations: [...jobMigrations, ...deploymentMigrations], clock })
  for (const cluster of ['a', 'b']) {
    await enterServer(store, { id: cluster, cluster, url: `http://${cluster}:1`, gateway_url: null })
    await ensureCluster(store, cluster, { kind: 'local', slots: { cpu: 1, [cluster]: 1 }, open: true })
  }
  const jobs = new Jobs({ store, wake: () => undefined })
  const create = async (device: string) =>
    (await jobs.create('p', { file: { run: ['x'], job: { device } } })).id
  /** Time passes, in which only these servers are there. */
  const pass = async (ms: number, ...there: string[]) => {
    clock.advance(ms)
    for (const cluster of there) await beat(store, cluster)
  }
  return { clock, store, jobs, create, pass, [Symbol.asyncDispose]: () => store.close() }
}

onEveryDatabase((databases) => {
  test('a cluster whose server is gone gets no jobs; they wait and say why until it is back', async () => {
    await using world = await open(databases)
    await world.pass(goneMs + 1, 'b')
    const [there, lost] = [await world.create('b'), await world.create('a')]
    await schedule(world.store, 'me')
    expect((await world.jobs.find('p', there)).cluster).toBe('b')
    const waiting = await world.jobs.find('p', lost)
    expect([waiting.state, waiting.status.message]).toEqual([
      'waiting',
      'It needs 1 of a, which a has; its server does not answer.',
    ])
    await beat(world.store, 'a')
    await schedule(world.store, 'me')
    expect((await world.jobs.find('p', lost)).cluster).toBe('a')
  })

  test('a job of a cluster that is gone is kept for it, says so once, and goes elsewhere when a person gives that up', async () => {
    await using world = await open(databases)
    const { store, jobs } = world
    const ids = [await world.create('cpu'), await world.create('cpu')]
    await schedule(store, 'me')
    const on = async (cluster: string) =>
      (await Promise.all(ids.map((id) => jobs.find('p', id)))).find((row) => row.cluster === cluster)
    const { id } = (await on('a'))!
    await expect(giveUpCluster(store, 'a')).rejects.toMatchObject({ failure: 'conflict' })
    await world.pass(goneMs + 1000, 'b')
    expect([await noteGone(store), await noteGone(store)]).toEqual([1, 0])
    const kept = await jobs.find('p', id)
    expect([kept.state, kept.cluster]).toEqual(['allocating', 'a'])
    expect(kept.status.message).toMatch(/last seen 31 s ago.*not started elsewhere.*cluster give-up a/)
    await expect(giveUpCluster(store, 'b')).rejects.toMatchObject({ failure: 'conflict' })
    expect(await giveUpCluster(store, 'a')).toBe(1)
    const free = await jobs.find('p', id)
    expect([free.state, free.cluster, free.run_id, free.attempt]).toEqual(['waiting', null, null, 1])
    await schedule(store, 'me')
    expect((await jobs.find('p', id)).status.message).toMatch(/0 are free/)
    // The machine comes back, with no job of ours, and closed until somebody opens it.
    await beat(store, 'a')
    await schedule(store, 'me')
    expect(await on('a')).toBeUndefined()
    const { rows } = await eventsOf(store, id, { limit: 20 })
    expect(rows.map(({ kind }) => kind)).toEqual([
      'job.waiting',
      'job.allocating',
      'job.note',
      'job.stopping',
      'job.waiting',
      'job.waits',
    ])
  })

  test('a job that was to stop is stopped with its cluster, and deployments start anew on another', async () => {
    await using world = await open(databases)
    const { store, jobs } = world
    const id = await world.create('a')
    await schedule(store, 'me')
    await jobs.stop('p', id)
    const deployments = new Deployments(store, 'a', anything, () => undefined)
    const made = await deployments.create('p', deploymentInput.parse({ name: 'd', version: { model: 'm' } }))
    await world.pass(goneMs + 1, 'b')
    await giveUpCluster(store, 'a')
    expect((await jobs.find('p', id)).state).toBe('stopped')
    expect([await moveDeployments(store, 'a', 'b'), await moveDeployments(store, 'a', 'b')]).toEqual([1, 0])
    expect((await deployments.nouns.get(made.id))?.cluster).toBe('b')
  })
})
