import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { deploymentInput } from '../../src/api/control/deployments.ts'
import { createJobEndpoint, resumeJob } from '../../src/api/control/job-endpoints.ts'
import { createOwnKey } from '../../src/api/control/keys.ts'
import * as api from '../../src/api/control/usage.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { Ledger } from '../../src/control/gateway/ledger.ts'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { ensureCluster } from '../../src/control/jobs/machines.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { jobRoutes } from '../../src/control/jobs/routes.ts'
import { jobNouns } from '../../src/control/jobs/rows.ts'
import { schedule } from '../../src/control/jobs/scheduler.ts'
import { moveJob } from '../../src/control/jobs/transition.ts'
import type { Store } from '../../src/control/store/store.ts'
import { checkDeviceBudgets } from '../../src/control/usage/device-budgets.ts'
import { addDeviceTime } from '../../src/control/usage/device-time.ts'
import { usageMigrations } from '../../src/control/usage/migration.ts'
import { usageRoutes } from '../../src/control/usage/routes.ts'
import { usageOf } from '../../src/control/usage/usage.ts'
import { UsageBook } from '../../src/control/usage/usage-book.ts'
import { World } from '../deployments/world.ts'
import { addMember, startService } from '../service/running.ts'
import { onEveryDatabase } from '../store/databases.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-usage-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))
let count = 0
const startMs = Date.UTC(2026, 10, 26, 12)
const params = { project: 'default' }

onEveryDatabase((databases) => {
  test('what gateways count is in the database once, however often it is written, and each knows of the others', async () => {
    const clock = new ManualClock(startMs)
    await using store = await databases.open({ migrations: usageMigrations, clock })
    const gateways = [1, 2].map(() => {
      const ledger = new Ledger(join(scratch, `${++count}`), clock)
      return { ledger, book: new UsageBook(store, ledger) }
    })
    for (let round = 1; round <= 3; round++) {
      for (const [index, { ledger, book }] of gateways.entries()) {
        const bill = ledger.begin({ request: 'r', project: 'p', key: 'k', model: 'stories' })
        bill.update({ prompt: 10, cached: 4, output: 100 * (index + 1) })
        bill.settle()
        await book.sync()
        await book.sync()
      }
    }
    const query = { project: 'p', from: '2026-11-26', to: '2026-11-26', by: ['model'] as const }
    expect((await usageOf(store, query)).tokens).toEqual([
      { model: 'stories', requests: 6, prompt: 60, cached: 24, output: 900, cost: 0 },
    ])
    const elsewhere = gateways[0]!.book.elsewhere.used('project', 'p', '2026-11')
    expect(elsewhere.get('stories')!.output).toBe(2 * 200)
    await gateways[0]!.book.sync()
    expect(gateways[0]!.book.elsewhere.used('key', 'k', '2026-11-26').get('stories')!.output).toBe(3 * 200)
    for (const { ledger } of gateways) ledger.close()
  })

  test('prices make costs of tokens and device-hours, budgets reach the gateway, and only who may sets them', async () => {
    const clock = new ManualClock(startMs)
    await using service = await startService(databases, {
      migrations: usageMigrations,
      routes: () => [usageRoutes(() => undefined)],
      clock,
    })
    const { store, owner } = service
    const ledger = new Ledger(join(scratch, `${++count}`), clock)
    const book = new UsageBook(store, ledger)
    const { items } = await owner.call(api.listBudgets, { params })
    expect(items).toEqual([])
    const prices = {
      models: [
        { model: 'stories', inputPerMillion: 2, cachedPerMillion: 1, outputPerMillion: 10 },
        { model: '*', inputPerMillion: 1, outputPerMillion: 1 },
      ],
      devices: [{ device: 'h100', perHour: 3 }],
    }
    await owner.call(api.replacePrices, { body: prices })
    const developer = await addMember(service, 'dev', 'develop')
    await expect(developer.call(api.replacePrices, { body: prices })).rejects.toThrow()
    await expect(developer.call(api.putBudget, { params, body: { per: 'day', tokens: 5 } })).rejects.toThrow()
    const first = await owner.call(api.putBudget, { params, body: { per: 'day', tokens: 1000 } })
    const second = await owner.call(api.putBudget, { params, body: { per: 'day', cost: 7 } })
    expect(second).toMatchObject({ id: first.id, tokens: null, cost: 7 })
    const project = (
      await store
        .db<{ budgets: { project_id: string } }>()
        .selectFrom('budgets')
        .select('project_id')
        .executeTakeFirstOrThrow()
    ).project_id
    const bill = ledger.begin({ request: 'r', project, key: 'k', model: 'stories' })
    bill.update({ prompt: 1_000_000, cached: 500_000, output: 100_000 })
    bill.settle()
    await book.sync()
    expect(book.budgets).toEqual([{ project, per: 'day', cost: 7 }])
    expect(book.prices).toHaveLength(2)
    // Over midnight: each day gets its part.
    await addDeviceTime(store, {
      ...{ project, subject: 'dep_1', name: 'stories', device: 'h100', devices: 2 },
      ...{ fromMs: Date.UTC(2026, 10, 25, 23), toMs: Date.UTC(2026, 10, 26, 2) },
    })
    const used = await developer.call(api.showUsage, { params, query: { by: 'day,key,model' } })
    expect(used.tokens).toMatchObject([{ day: '2026-11-26', key: 'k', model: 'stories', cost: 1 + 0.5 + 1 }])
    expect(used.devices.map(({ day, hours, cost }) => [day, hours, cost])).toEqual([
      ['2026-11-25', 2, 6],
      ['2026-11-26', 4, 12],
    ])
    expect(used.cost).toBeCloseTo(20.5)
    await expect(owner.call(api.showUsage, { params, query: { from: '2020-01-01' } })).rejects.toThrow(
      /400 days/,
    )
    const nobodys = owner.call(api.putBudget, { params, body: { per: 'day', key: 'nope', tokens: 5 } })
    await expect(nobodys).rejects.toMatchObject({ code: 'not_found', param: 'key' })
    const own = await owner.call(createOwnKey, { body: { name: 'own' } })
    const ofNoProject = owner.call(api.putBudget, { params, body: { per: 'day', key: own.id, tokens: 5 } })
    await expect(ofNoProject).rejects.toMatchObject({ code: 'not_found' })
    await owner.call(api.removeBudget, { params: { ...params, budget: first.id } })
    await expect(owner.call(api.removeBudget, { params: { ...params, budget: first.id } })).rejects.toThrow(
      /no budget/,
    )
    ledger.close()
  })
})

onEveryDatabase((databases) => {
  test('a project that has used up its device-hours, or its money, gets no more jobs, and is told why', async () => {
    const clock = new ManualClock(startMs)
    const jobsOf = (store: Store) =>
      new Jobs({ store, wake: () => undefined, checkBudget: (project) => checkDeviceBudgets(store, project) })
    await using service = await startService(databases, {
      migrations: jobMigrations,
      routes: (store) => [
        usageRoutes(() => undefined),
        jobRoutes({ jobs: jobsOf(store), clusters: new Map(), folders: new JobFolders(scratch) }),
      ],
      clock,
    })
    const { store, owner } = service
    const create = () => owner.call(createJobEndpoint, { params, body: { file: { run: ['true'] } } })
    await owner.call(api.putBudget, { params, body: { per: 'day', device_hours: 3 } })
    const { id, project } = await create()
    await ensureCluster(store, 'a', { kind: 'local', slots: { cpu: 1 }, open: true })
    await schedule(store, 'me')
    clock.advance(3 * 3_600_000)
    const nouns = jobNouns(store)
    const placed = (await nouns.get(id))!
    const stopping = (await moveJob(nouns, placed, {
      to: 'stopping',
      reason: 'stop_requested',
      message: '',
    }))!
    await moveJob(nouns, stopping, { to: 'stopped', reason: 'stopped', message: '' })
    const query = { project, from: '2026-11-26', to: '2026-11-26', by: [] }
    expect((await usageOf(store, query)).devices).toMatchObject([{ subject: id, device: 'cpu', hours: 3 }])
    await expect(create()).rejects.toMatchObject({
      code: 'budget_exhausted',
      message: expect.stringContaining('3 device-hours a day: 3.0 are used'),
    })
    const job = { params: { ...params, job: id } }
    await expect(owner.call(resumeJob, job)).rejects.toMatchObject({ code: 'budget_exhausted' })
    await owner.call(api.replacePrices, { body: { models: [], devices: [{ device: '*', perHour: 2 }] } })
    await owner.call(api.putBudget, { params, body: { per: 'day', cost: 6 } })
    await expect(create()).rejects.toMatchObject({ message: expect.stringContaining('6.00 are spent') })
    clock.advance(12 * 3_600_000)
    expect((await owner.call(resumeJob, job)).state).toBe('waiting')
    const ofKey = owner.call(api.putBudget, { params, body: { per: 'day', key: 'k', device_hours: 1 } })
    await expect(ofKey).rejects.toMatchObject({ code: 'invalid_request' })
  })
})

test('the device time of a deployment is that of its replicas from start to end, whoever looks after them', async () => {
  await using w = await World.open(join(scratch, 'world', 'ropeway.db'))
  const input = deploymentInput.parse({
    name: 'stories',
    scaling: { min: 2, max: 2 },
    version: { model: 'one', devices: { type: 'h100', count: 4 } },
  })
  const { id } = await w.deployments.create('main', input)
  await w.round()
  await w.pass(150_000, 1000)
  await w.restart()
  w.clock.advance(30_000)
  await w.pass(45_000, 1000)
  await w.deployments.delete(id)
  await w.pass(10_000)
  const query = { project: 'main', from: '2026-11-26', to: '2026-11-26', by: [] }
  const [used] = (await usageOf(w.store, query)).devices
  // Replicas end half a second after they are asked to, and a look sees it.
  const hours = (2 * 4 * (225_000 + 1000)) / 3_600_000
  expect(used!.hours).toBeGreaterThan(hours * 0.99)
  expect(used!.hours).toBeLessThan(hours * 1.02)
})
