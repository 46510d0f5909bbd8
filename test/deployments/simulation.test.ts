import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { deploymentUpdate } from '../../src/api/control/deployments.ts'
import { noteWanted } from '../../src/control/deployments/due.ts'
import { eventsOf } from '../../src/control/store/events.ts'
import { ServerDied } from '../launchers/fake-launcher.ts'
import { startMs, World, type WorldOptions } from './world.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-deployments-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))

let count = 0
const world = (options: WorldOptions = {}) => World.open(join(scratch, `${++count}`, 'ropeway.db'), options)
const version = (model: string, fields: object = {}) =>
  deploymentUpdate.parse({ version: { model }, ...fields })

async function kinds(w: World, id: string): Promise<string[]> {
  const { rows } = await eventsOf(w.store, id, { limit: 200 })
  return rows.map(({ kind }) => kind.replace('deployment.', ''))
}

test('a deployment gets its replicas, serves when one is ready, and replaces one that dies', async () => {
  await using w = await world()
  const id = await w.create({ scaling: { min: 2, max: 2 } })
  await w.round()
  // The first version proves itself with as many replicas as it is to have.
  expect(w.living()).toEqual([`${id}.1`, `${id}.2`])
  expect(w.ready('v1')).toEqual([])
  await w.pass(startMs + 1000)
  expect(w.ready('v1')).toEqual([`${id}.1`, `${id}.2`])
  w.machine.lose(`${id}.1`, 0)
  await w.pass(3000)
  expect(w.living()).toEqual([`${id}.2`, `${id}.3`])
  await w.pass(startMs + 2000)
  expect(w.ready('v1')).toEqual([`${id}.2`, `${id}.3`])
  expect(await kinds(w, id)).toEqual([
    ...['created', 'rollout_began', 'replica_starting', 'replica_starting', 'replica_ready', 'replica_ready'],
    ...['serving', 'replica_failed', 'replica_starting', 'replica_ready'],
  ])
})

test('a replica whose wrapper died before it claimed anything is submitted again, not replaced', async () => {
  await using w = await world({ program: () => ({ claimedBy: 2 }) })
  const id = await w.create()
  await w.pass(startMs + 10_000)
  expect(w.machine.lives()).toMatchObject([{ run: `${id}.1`, startMs: undefined }])
  await w.pass(startMs + 10_000)
  expect(w.ready('v1')).toEqual([`${id}.1`])
  expect(await kinds(w, id)).toEqual([
    'created',
    'rollout_began',
    'replica_starting',
    'replica_ready',
    'serving',
  ])
})

test('the new version serves when it is ready, and a rollback takes one look because the old one was kept', async () => {
  await using w = await world()
  const id = await w.create()
  await w.pass(4000)
  await w.deployments.update(id, version('two'))
  await w.round()
  expect(w.shares()).toEqual({ v1: 1 })
  await w.pass(4000)
  expect(w.shares()).toEqual({ v2: 1 })
  expect([w.ready('v1').length, w.ready('v2').length]).toEqual([1, 1])
  await w.deployments.rollback(id)
  await w.round()
  expect(w.shares()).toEqual({ v1: 1 })
  expect(w.ready('v1')).toEqual([`${id}.1`])
  await w.pass(700_000, 10_000)
  // The other one is not needed any more.
  expect(w.living()).toEqual([`${id}.1`])
})

test('replicas follow the requests up at once and down after a while, and none is left where none is needed', async () => {
  await using w = await world()
  const id = await w.create({
    scaling: { min: 0, max: 3, requestsPerReplica: 4, idleSeconds: 60, downAfterSeconds: 30 },
  })
  await w.pass(4000)
  expect(w.ready('v1')).toHaveLength(1)
  w.played.set(`${id}.1`, { running: 4, waiting: 5 })
  await w.pass(6000)
  expect(w.ready('v1')).toHaveLength(3)
  w.played.clear()
  await w.pass(20_000)
  expect(w.ready('v1')).toHaveLength(3)
  await w.pass(15_000)
  expect(w.ready('v1')).toHaveLength(1)
  await w.pass(60_000)
  expect([w.living(), (await w.deployments.nouns.get(id))!.state]).toEqual([[], 'idle'])
  await noteWanted(w.store, 'stories')
  await w.round()
  expect(w.living()).toHaveLength(1)
  await w.pass(startMs + 500)
  expect(w.ready('v1')).toHaveLength(1)
})

test('a version whose replica refuses what it was started with is not tried again until the deployment changes', async () => {
  await using w = await world({
    program: ({ command }) => (command.includes('bad') ? { startMs: 50, durationMs: 100, exitCode: 2 } : {}),
  })
  const id = await w.create({ version: { model: 'bad' } })
  await w.pass(200_000)
  const tries = () => w.machine.lives().length
  expect(tries()).toBe(1)
  const { state, status } = (await w.deployments.nouns.get(id))!
  expect(state).toBe('failing')
  expect(status.message).toContain('v1 cannot start as it is asked for: exit code 2')
  await w.deployments.update(id, deploymentUpdate.parse({ public: true }))
  await w.pass(60_000)
  expect(tries()).toBe(2)
  await w.deployments.update(id, version('good'))
  await w.pass(4000)
  expect([w.shares(), (await w.deployments.nouns.get(id))!.state]).toEqual([{ v2: 1 }, 'ready'])
})

test('a version that cannot start is tried ever more rarely, its deployment says so, and what served goes on', async () => {
  await using w = await world({
    program: ({ command }) => (command.includes('bad') ? { startMs: 50, durationMs: 100, exitCode: 3 } : {}),
  })
  const id = await w.create()
  await w.pass(4000)
  await w.deployments.update(id, version('bad'))
  await w.pass(60_000)
  const tries = w.machine.lives().filter(({ request }) => request.command.includes('bad')).length
  expect(tries).toBeGreaterThan(3)
  expect(tries).toBeLessThan(8)
  expect(w.shares()).toEqual({ v1: 1 })
  const { rows } = await eventsOf(w.store, id, { limit: 200 })
  expect(rows.find(({ kind }) => kind === 'deployment.replica_failed')!.message).toContain('exit code 3')
  await w.deployments.update(id, version('missing'))
  await w.pass(5000)
  expect((await kinds(w, id)).filter((kind) => kind === 'refused')).toHaveLength(1)
})

describe('a canary', () => {
  const rollout = { canary: 0.2, test: { requests: 50, errorMargin: 0.02, latencyFactor: 1.5 } }
  const shown = async (options: WorldOptions = {}) => {
    const w = await world(options)
    const id = await w.create({ rollout })
    await w.pass(4000)
    w.records.set('stories:v1', { requests: 500, failures: 5, firstTokenP90Ms: 100 })
    await w.deployments.update(id, version('two'))
    await w.pass(4000)
    return { w, id }
  }
  const record = (requests: number, failures: number, firstTokenP90Ms: number) => ({
    requests,
    failures,
    firstTokenP90Ms,
  })

  test('gets its share, and all of it once its test is passed', async () => {
    const { w } = await shown()
    await using _ = w
    expect(w.shares()).toEqual({ v1: 0.8, v2: 0.2 })
    w.records.set('stories:v2', record(49, 0, 120))
    await w.pass(3000)
    expect(w.shares()).toEqual({ v1: 0.8, v2: 0.2 })
    w.records.set('stories:v2', record(50, 1, 120))
    await w.pass(3000)
    expect(w.shares()).toEqual({ v2: 1 })
  })

  test('that fails or is slow is taken back and its replicas end, and the reason is an event', async () => {
    for (const [bad, why] of [
      [record(20, 2, 100), 'failed'],
      [record(60, 0, 151), 'first token'],
    ] as const) {
      const { w, id } = await shown()
      await using _ = w
      w.records.set('stories:v2', bad)
      await w.pass(5000)
      expect(w.shares()).toEqual({ v1: 1 })
      expect(w.living()).toEqual([`${id}.1`])
      const { rows } = await eventsOf(w.store, id, { limit: 200 })
      expect(rows.find(({ kind }) => kind === 'deployment.rejected')!.message).toContain(why)
      // It stays rejected, and a person may still insist on it.
      await w.pass(5000)
      expect(w.living()).toEqual([`${id}.1`])
      await w.deployments.rollback(id, 'v2')
      await w.pass(5000)
      expect(w.shares()).toEqual({ v2: 1 })
    }
  })
})

test('a gate keeps a version from the traffic until its answers are right', async () => {
  const asked: string[] = []
  await using w = await world({
    ask: async (entry, path, { prompt }) => {
      asked.push(`${entry.version} ${path} ${String(prompt)}`)
      return prompt === 'Is it?' ? 'yes' : 'no'
    },
  })
  const gate = (prompt: string) => ({ gate: { cases: [{ request: { prompt }, expect: { exact: 'yes' } }] } })
  const id = await w.create({ rollout: gate('Is it?') })
  await w.pass(4000)
  expect(w.shares()).toEqual({ v1: 1 })
  await w.deployments.update(id, version('two', { rollout: gate('Or not?') }))
  await w.pass(6000)
  expect([w.shares(), w.living()]).toEqual([{ v1: 1 }, [`${id}.1`]])
  expect(asked).toEqual(['v1 /v1/completions Is it?', 'v2 /v1/completions Or not?'])
  expect((await kinds(w, id)).slice(-3)).toEqual(['replica_ready', 'rejected', 'replica_stopped'])
})

test('a deleted deployment lets its replicas finish and is gone, and its name is free', async () => {
  await using w = await world()
  const id = await w.create({ scaling: { min: 2, max: 2 } })
  await w.pass(4000)
  await expect(w.create()).rejects.toThrow(/exists already/)
  await w.deployments.delete(id)
  await w.round()
  expect(w.table.current.deployments).toEqual([])
  await w.pass(3000)
  expect(w.living()).toEqual([])
  await w.create()
  await expect(w.deployments.update(id, deploymentUpdate.parse({ public: true }))).rejects.toThrow(/no such/)
})

describe('whatever the launcher and the servers do', () => {
  const faults = { lose: 0.15, loseReply: 0.15, delay: 0.1, delayMsMax: 20_000, repeat: 0.1, stale: 0.1 }

  test('there are in the end exactly the replicas that were asked for, and none of a deleted deployment', async () => {
    for (let seed = 1; seed <= 8; seed++) {
      await using w = await world({ seed, faults })
      const id = await w.create({ scaling: { min: 2, max: 2 } })
      await w.pass(20_000)
      await w.deployments.update(id, version('two', { rollout: { keepSeconds: 5 } }))
      await w.pass(15_000)
      await w.restart()
      await w.pass(120_000, 1000)
      for (let i = 0; i < 5; i++) await w.sweep().catch(() => undefined)
      await w.pass(30_000)
      expect([seed, w.living(), w.shares()]).toEqual([seed, w.ready('v2').sort(), { v2: 1 }])
      expect(w.living()).toHaveLength(2)
      await w.deployments.delete(id)
      await w.pass(60_000, 1000)
      for (let i = 0; i < 5; i++) await w.sweep().catch(() => undefined)
      await w.pass(3000)
      expect([seed, w.living()]).toEqual([seed, []])
    }
  })

  test('a server that dies at its n-th call of the launcher is followed by one that ends where it would have', async () => {
    for (let dieAt = 1; dieAt <= 24; dieAt++) {
      await using w = await world({ dieAt })
      const id = await w.create()
      const succeeded = async () => {
        w.troubles.length = 0
        await w.restart()
        // Its predecessor's lease has to end.
        w.clock.advance(30_000)
      }
      const until = async (ms: number) => {
        const isDead = () => w.troubles.some((error) => error instanceof ServerDied)
        for (let passed = 0; passed < ms && !isDead(); passed += 500) await w.pass(500)
        if (isDead()) await succeeded()
      }
      await until(4000)
      await w.deployments.update(id, version('two', { rollout: { keepSeconds: 1 } }))
      await until(6000)
      await succeeded()
      await w.pass(10_000)
      await w.sweep()
      await w.pass(2000)
      expect([dieAt, w.shares(), w.living()]).toEqual([dieAt, { v2: 1 }, w.ready('v2')])
      expect(w.living()).toHaveLength(1)
    }
  })
})
