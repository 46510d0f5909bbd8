import { expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import { apiRoot } from '../../src/api/control/endpoint.ts'
import { createJobEndpoint, listJobs, retryJob } from '../../src/api/control/job-endpoints.ts'
import { createKey, listKeys } from '../../src/api/control/keys.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { jobRoutes } from '../../src/control/jobs/routes.ts'
import { forgetAnswers, keptMs } from '../../src/control/service/once.ts'
import type { Store } from '../../src/control/store/store.ts'
import type { Watch } from '../../src/control/store/watched-driver.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { FaultInjector } from '../store/faults.ts'
import { addMember, startService } from './running.ts'

const params = { project: 'default' }
const file = { run: ['true'] }

async function open(databases: TestDatabases, watch?: Watch) {
  const clock = new ManualClock(1_700_000_000_000)
  const woken: number[] = []
  const wake = (store: Store) => async () => {
    const { count } = await store
      .db<{ jobs: object }>()
      .selectFrom('jobs')
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .executeTakeFirstOrThrow()
    woken.push(count)
  }
  const service = await startService(databases, {
    ...(watch && { watch }),
    clock,
    migrations: jobMigrations,
    routes: (store) => {
      const jobs = new Jobs({ store, wake: watch === undefined ? wake(store) : () => undefined })
      return [jobRoutes({ jobs, clusters: new Map(), folders: new JobFolders('/nowhere') })]
    },
  })
  const names = async () =>
    (await service.owner.call(listJobs, { params, query: {} })).items.map(({ name }) => name)
  return Object.assign(service, { clock, woken, names })
}

onEveryDatabase((databases) => {
  test('a request that is made again with its key is answered as before, and its work is done once', async () => {
    await using service = await open(databases)
    const headers = { 'idempotency-key': 'one' }
    const ask = () => service.owner.call(createJobEndpoint, { params, body: { file }, headers })
    const answers = await Promise.all([ask(), ask(), ask()])
    expect(new Set(answers.map(({ id }) => id)).size).toBe(1)
    expect(await ask()).toEqual(answers[0])
    expect((await service.names()).length).toBe(1)
    // Whoever is woken finds the job.
    await expect.poll(() => service.woken).toEqual([1])
    await ask().then(() => service.owner.call(createJobEndpoint, { params, body: { file } }))
    expect((await service.names()).length).toBe(2)
  })

  test('a key is one request of one person: another with it is refused, and another person has keys of their own', async () => {
    await using service = await open(databases)
    const headers = { 'idempotency-key': 'one' }
    const ann = await addMember(service, 'ann', 'develop')
    await service.owner.call(createJobEndpoint, { params, body: { file }, headers })
    const other = service.owner.call(createJobEndpoint, { params, body: { file, name: 'x' }, headers })
    await expect(other).rejects.toMatchObject({ code: 'conflict' })
    await ann.call(createJobEndpoint, { params, body: { file, name: 'anns' }, headers })
    expect(await service.names()).toEqual(['anns', 'job'])
    const wrong = service.owner.call(createJobEndpoint, {
      params,
      body: { file },
      headers: { 'idempotency-key': 'a b' },
    })
    await expect(wrong).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('what was refused did nothing, and may be asked again with the same key', async () => {
    await using service = await open(databases)
    const headers = { 'idempotency-key': 'one' }
    const { id } = await service.owner.call(createJobEndpoint, { params, body: { file } })
    const retry = () => service.owner.call(retryJob, { params: { ...params, job: id }, headers })
    await expect(retry()).rejects.toMatchObject({ code: 'conflict' })
    await service.store
      .db<{ jobs: { state: string } }>()
      .updateTable('jobs')
      .set({ state: 'failed' })
      .execute()
    expect((await retry()).state).toBe('waiting')
    expect((await retry()).state).toBe('waiting')
  })

  test('an answer with a secret is kept encrypted, given again, and forgotten after a day', async () => {
    await using service = await open(databases)
    const headers = { 'idempotency-key': 'one' }
    const ask = () => service.owner.call(createKey, { params, body: { name: 'ci' }, headers })
    const { key } = await ask()
    expect((await ask()).key).toBe(key)
    const rows = await service.store
      .db<{ answered_requests: object }>()
      .selectFrom('answered_requests')
      .selectAll()
      .execute()
    expect(rows.length).toBe(1)
    expect(JSON.stringify(rows)).not.toContain(key)
    service.clock.advance(keptMs + 1)
    await forgetAnswers(service.store)
    expect((await ask()).key).not.toBe(key)
    const listed: string[] = []
    for await (const { name } of service.owner.items(listKeys, { params })) listed.push(name)
    expect(listed.filter((name) => name === 'ci').length).toBe(2)
  })

  for (const fault of ['refused', 'unanswered'] as const)
    test(`whoever asks until there is an answer has one job, whichever database call is ${fault}`, async () => {
      const faults = new FaultInjector()
      await using service = await open(databases, faults.watch)
      let asked = 0
      for (const n of faults.each(fault)) {
        const headers = { 'idempotency-key': `${fault}-${n}` }
        const ask = () =>
          service.owner.call(createJobEndpoint, { params, body: { file, name: `job-${n}` }, headers })
        await ask().catch(() => ask())
        asked++
      }
      const names: string[] = []
      for await (const { name } of service.owner.items(listJobs, { params, query: { limit: 100 } }))
        names.push(name)
      expect(names.sort()).toEqual(Array.from({ length: asked }, (_, i) => `job-${i + 1}`).sort())
    })

  test('the client asks again when the connection breaks, with the same key', async () => {
    await using service = await open(databases)
    const keys: string[] = []
    const waits: number[] = []
    const client = new Client({
      url: service.url,
      token: service.ownerKey,
      wait: async (ms) => void waits.push(ms),
      fetch: async (url, init) => {
        keys.push(new Headers(init?.headers).get('idempotency-key') ?? '')
        const answer = await fetch(url, init)
        if (keys.length < 3)
          throw new TypeError('fetch failed', {
            cause: Object.assign(new Error('reset'), { code: 'ECONNRESET' }),
          })
        return answer
      },
    })
    await client.call(createJobEndpoint, { params, body: { file } })
    expect([new Set(keys).size, keys.length, waits]).toEqual([1, 3, [200, 1000]])
    expect((await service.names()).length).toBe(1)
  })

  test('the document says which endpoints take a key', async () => {
    await using service = await open(databases)
    const document = (await (await fetch(`${service.url}${apiRoot}/openapi.json`)).json()) as {
      paths: Record<string, { post: { parameters: { name: string }[] } }>
    }
    const { parameters } = document.paths['/api/v1/projects/{project}/jobs']!.post
    expect(parameters.map(({ name }) => name)).toContain('idempotency-key')
  })
})
