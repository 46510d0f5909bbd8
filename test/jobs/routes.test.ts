import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { listProjectAudit, listServiceAudit } from '../../src/api/control/audit.ts'
import * as api from '../../src/api/control/job-endpoints.ts'
import { saveTemplate, viewTemplate } from '../../src/api/control/job-templates.ts'
import {
  createCluster,
  deleteCluster,
  deleteQuota,
  editCluster,
  listClusters,
  setQuota,
  viewCluster,
} from '../../src/api/control/machine-endpoints.ts'
import type { Refused } from '../../src/api/control/problem.ts'
import { putWorkspace, putWorkspaceContent } from '../../src/api/control/workspaces.ts'
import { Random } from '../../src/base/random.ts'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { LocalWorkplace } from '../../src/control/jobs/launch.ts'
import { machineRoutes } from '../../src/control/jobs/machine-routes.ts'
import { ensureCluster } from '../../src/control/jobs/machines.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { jobRoutes } from '../../src/control/jobs/routes.ts'
import type { JobRow, JobTables } from '../../src/control/jobs/rows.ts'
import { schedule } from '../../src/control/jobs/scheduler.ts'
import { templateRoutes } from '../../src/control/jobs/template-routes.ts'
import { workspaceRoutes } from '../../src/control/jobs/workspace-routes.ts'
import { Workspaces } from '../../src/control/jobs/workspaces.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { addMember, startService } from '../service/running.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-job-routes-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

async function open(databases: TestDatabases) {
  const folders = new JobFolders(join(folder, 'jobs'))
  const workspaces = new Workspaces(FolderStore.create(join(folder, 'objects')))
  const wrapper = new URL('../../src/cli/run-wrapper.ts', import.meta.url)
  const launcher = new LocalLauncher({ root: join(folder, 'runs'), wrapper })
  const clusters = new Map([['local', { launcher, workplace: new LocalWorkplace({ folders, trainer: [] }) }]])
  const service = await startService(databases, {
    migrations: jobMigrations,
    routes: (store) => {
      const jobs = new Jobs({ store, wake: () => undefined, hasWorkspace: (p, id) => workspaces.has(p, id) })
      return [
        jobRoutes({ jobs, clusters, folders }),
        machineRoutes({ wake: () => undefined, moveDeployments: async () => 0 }),
        templateRoutes(jobs),
        workspaceRoutes(workspaces),
      ]
    },
  })
  await ensureCluster(service.store, 'local', { kind: 'local', slots: { cpu: 1 }, open: true })
  return service
}

const params = { project: 'default' }
const code = (call: Promise<unknown>) =>
  call.then(
    () => 'ok',
    (error: Refused) => error.code,
  )

onEveryDatabase((databases) => {
  test('a name that is no field is told with the one that was meant, at any depth of a job file', async () => {
    await using service = await open(databases)
    const said = async (file: object) => {
      const call = service.owner.call(api.createJobEndpoint, {
        params,
        body: { file: { name: 'a', ...file } },
      })
      return await call.then(
        () => 'made',
        (error: Refused) => `${error.code}: ${error.message}`,
      )
    }
    const run = ['true']
    expect(await said({ run, procesess: 2 })).toBe(
      'invalid_request: The field procesess is not a field of a job that runs a command; did you mean processes?',
    )
    const inPart = (name: string, meant: string) =>
      `invalid_request: The field ${name} is not a field of a job's part job; did you mean ${meant}?`
    expect(await said({ run, job: { clustr: 'local' } })).toBe(inPart('job.clustr', 'cluster'))
    expect(await said({ run, job: { nodes: 2 } })).toBe(inPart('job.nodes', 'nodes outside of job'))
    expect(await said({ run, job: { notify: { slak: 'team' } } })).toBe(inPart('job.notify.slak', 'slack'))
    expect(await said({ steps: 3, job: { priorty: 9 } })).toBe(inPart('job.priorty', 'priority'))
    expect(await said({ run, retries: 2 })).toContain('; did you mean job.retries?')
    expect(await said({ run, name: '한글' })).toContain('it takes letters, digits and . _ -')
    expect(await said({ run, job: { colour: 'red' } })).toMatch(
      /colour is not a field of a job's part job\.$/,
    )
    expect(await said({ run, job: { devices: 0 } })).toContain('The field job.devices is not right')
  })

  test('jobs that cannot run, however many, keep none from running that can', async () => {
    await using service = await open(databases)
    const { store } = service
    const made = async (name: string, device: string, devices: number) => {
      const file = { name, run: ['true'], job: { device, devices } }
      return (await service.owner.call(api.createJobEndpoint, { params, body: { file } })).id
    }
    const db = store.db<JobTables>()
    const repeat = async (id: string, change: Partial<JobRow>) => {
      const [row] = await db.selectFrom('jobs').selectAll().where('id', '=', id).execute()
      const rows = Array.from({ length: 250 }, (_, i) => ({ ...row!, ...change, id: `${row!.id}${i}` }))
      for (let from = 0; from < rows.length; from += 25)
        await db
          .insertInto('jobs')
          .values(rows.slice(from, from + 25))
          .execute()
    }
    await service.owner.call(setQuota, { params: { ...params, device: 'gpu' }, body: { devices: 0 } })
    await repeat(await made('no-cluster', 'h100', 1), {})
    await repeat(await made('too-large', 'cpu', 9), {})
    await repeat(await made('held', 'gpu', 1), {})
    const later = await made('later', 'cpu', 1)
    await repeat(later, { not_before: store.clock.unixMs() + 60_000 })
    await db.deleteFrom('jobs').where('id', '=', later).execute()
    const last = await made('last', 'cpu', 1)
    expect(await schedule(store, 'server')).toBe(true)
    const placed = await db.selectFrom('jobs').select('id').where('state', '!=', 'waiting').execute()
    expect(placed).toEqual([{ id: last }])
  })

  test('a guest sees jobs and changes none, a developer runs and stops them, others do not know of them', async () => {
    await using service = await open(databases)
    const developer = await addMember(service, 'dora', 'develop')
    const guest = await addMember(service, 'gus', 'guest')
    const body = { file: { name: 'one', run: ['true'] } }
    const made = await developer.call(api.createJobEndpoint, { params, body })
    expect(made).toMatchObject({ name: 'one', state: 'waiting', kind: 'run' })
    const one = { ...params, job: 'one' }
    expect((await guest.call(api.listJobs, { params })).items.map(({ id }) => id)).toEqual([made.id])
    expect((await guest.call(api.viewJob, { params: { ...params, job: made.id } })).name).toBe('one')
    expect(await code(guest.call(api.createJobEndpoint, { params, body }))).toBe('forbidden')
    expect(await code(guest.call(api.stopJob, { params: one }))).toBe('forbidden')
    expect(await code(service.nobody.call(api.listJobs, { params }))).toBe('unauthenticated')
    expect((await developer.call(api.stopJob, { params: one })).state).toBe('stopped')
    expect(await code(developer.call(api.stopJob, { params: one }))).toBe('conflict')
    expect((await developer.call(api.resumeJob, { params: one })).state).toBe('waiting')
    expect(await code(developer.call(api.deleteJob, { params: one }))).toBe('conflict')
    await developer.call(api.stopJob, { params: one })
    await developer.call(api.deleteJob, { params: one })
    for (const job of ['one', made.id])
      expect(await code(developer.call(api.viewJob, { params: { ...params, job } }))).toBe('not_found')
    const { items } = await developer.call(api.listJobs, { params })
    expect(items).toEqual([])
  })

  test('quotas and clusters are for who runs the service', async () => {
    await using service = await open(databases)
    const admin = await addMember(service, 'ada', 'admin')
    const quota = { params: { ...params, device: 'cpu' }, body: { devices: 3 } }
    expect(await code(admin.call(setQuota, quota))).toBe('forbidden')
    expect(await service.owner.call(setQuota, quota)).toMatchObject({ device: 'cpu', devices: 3, used: 0 })
    const edit = { params: { cluster: 'local' }, body: { slots: { cpu: 2 } } }
    expect(await code(admin.call(editCluster, edit))).toBe('forbidden')
    await service.owner.call(editCluster, edit)
    const { items } = await admin.call(listClusters, {})
    expect(items).toMatchObject([{ name: 'local', slots: { cpu: 2 }, used: {}, open: true }])
  })

  test('deeds of who runs the service are on file: those in a project there, all of them in the whole', async () => {
    await using service = await open(databases)
    const { owner } = service
    const admin = await addMember(service, 'ada', 'admin')
    const quota = { params: { ...params, device: 'cpu' } }
    await owner.call(setQuota, { ...quota, body: { devices: 3 } })
    await owner.call(deleteQuota, quota)
    await owner.call(editCluster, { params: { cluster: 'local' }, body: { open: false } })
    const inProject = (await admin.call(listProjectAudit, { params })).items
    expect(inProject.map(({ action }) => action)).toEqual(['quota.delete', 'quota.set'])
    const { items } = await owner.call(listServiceAudit, {})
    expect(items.slice(0, 3).map(({ action, project }) => [action, project !== null])).toEqual([
      ['cluster.edit', false],
      ['quota.delete', true],
      ['quota.set', true],
    ])
    expect(await code(admin.call(listServiceAudit, {}))).toBe('forbidden')
    const nowhere = { params: { project: 'nowhere', device: 'cpu' }, body: { devices: 3 } }
    expect(await code(owner.call(setQuota, nowhere))).toBe('not_found')
  })

  test('a cluster is made before its server comes up, and deleted once no job is there or waits for it', async () => {
    await using service = await open(databases)
    const admin = await addMember(service, 'ada', 'admin')
    const body = { name: 'cellar', slots: { cpu: 4 } }
    const cellar = { params: { cluster: 'cellar' } }
    expect(await code(admin.call(createCluster, { body }))).toBe('forbidden')
    await service.owner.call(createCluster, { body })
    expect(await code(service.owner.call(createCluster, { body }))).toBe('name_taken')
    expect(await admin.call(viewCluster, cellar)).toMatchObject({
      name: 'cellar',
      slots: { cpu: 4 },
      open: true,
    })
    const file = { name: 'one', run: ['true'], job: { cluster: 'cellar' } }
    await service.owner.call(api.createJobEndpoint, { params, body: { file } })
    expect(await code(admin.call(deleteCluster, cellar))).toBe('forbidden')
    expect(await code(service.owner.call(deleteCluster, cellar))).toBe('conflict')
    await service.owner.call(api.stopJob, { params: { ...params, job: 'one' } })
    await service.owner.call(deleteCluster, cellar)
    expect(await code(admin.call(viewCluster, cellar))).toBe('not_found')
  })

  test('a template keeps a file and its folder, and refuses what no job can be made of', async () => {
    await using service = await open(databases)
    const sha256 = createHash('sha256').update('hello').digest('hex')
    const files = [{ path: 'a.txt', sha256, bytes: 5 }]
    expect((await service.owner.call(putWorkspace, { params, body: { files } })).missing).toEqual([sha256])
    const content = { params: { ...params, content: sha256 }, body: 'hello' }
    await service.owner.call(putWorkspaceContent, content)
    const { id } = await service.owner.call(putWorkspace, { params, body: { files } })
    const at = { params: { ...params, template: 'nightly' } }
    const file = { run: ['cat', 'a.txt'] }
    await service.owner.call(saveTemplate, { ...at, body: { file, workspace: id! } })
    expect(await service.owner.call(viewTemplate, at)).toMatchObject({ name: 'nightly', file, workspace: id })
    const unknown = `ws_${'0'.repeat(64)}`
    expect(await code(service.owner.call(saveTemplate, { ...at, body: { file, workspace: unknown } }))).toBe(
      'not_found',
    )
    const wrong = { file: { run: 'a | b' } }
    expect(await code(service.owner.call(saveTemplate, { ...at, body: wrong }))).toBe('invalid_request')
  })

  test('of two who change the same, the second hears that it is another now, and nothing is lost', async () => {
    await using service = await open(databases)
    const { owner } = service
    const at = { params: { cluster: 'local' } }
    const seen = await owner.call(viewCluster, at)
    const edits = ['gpu', 'tpu'].map((type) => ({
      ...at,
      body: { slots: { ...seen.slots, [type]: 8 }, version: seen.version },
    }))
    const codes = await Promise.all(edits.map((edit) => code(owner.call(editCluster, edit))))
    expect(codes.sort()).toEqual(['conflict', 'ok'])
    const now = await owner.call(viewCluster, at)
    expect(now).toMatchObject({ version: seen.version + 1 })
    expect(Object.keys(now.slots)).toHaveLength(2)
    // Who read nothing, or what is there now, changes it.
    await owner.call(editCluster, { ...at, body: { open: false } })
    const again = { ...at, body: { open: true, version: now.version + 1 } }
    expect(await owner.call(editCluster, again)).toMatchObject({ slots: now.slots, open: true })

    const template = { params: { ...params, template: 'nightly' } }
    const save = (run: string, version?: number) => {
      const body = { file: { run: [run] }, ...(version !== undefined && { version }) }
      return owner.call(saveTemplate, { ...template, body })
    }
    expect(await code(save('first', 1))).toBe('not_found')
    const { version } = await save('first')
    await save('second', version)
    expect(await code(save('third', version))).toBe('conflict')
    expect((await owner.call(viewTemplate, template)).file).toEqual({ run: ['second'] })
    await save('fourth')
    expect((await owner.call(viewTemplate, template)).file).toEqual({ run: ['fourth'] })
  })

  test('whatever is sent to the endpoints of jobs, none of them fails', async () => {
    await using service = await open(databases)
    await service.owner.call(api.createJobEndpoint, {
      params,
      body: { file: { name: 'one', run: ['true'] } },
    })
    const random = new Random(5)
    const pick = <T>(values: readonly T[]): T => values[random.integer(values.length)]!
    const texts = [
      '',
      'one',
      '..',
      '%2e%2e',
      '\u0000',
      '💥',
      'a'.repeat(300),
      '-1',
      '1e9',
      'null',
      "' or 1=1 --",
      '{}',
    ]
    const values: unknown[] = [null, -1, 1e300, true, [], {}, [[]], { run: [] }, { run: [''] }, ...texts]
    const fields = [
      'file',
      'run',
      'name',
      'job',
      'priority',
      'devices',
      'env',
      'workspace',
      'model',
      'grace',
      'notify',
    ]
    const paths = Object.values(api).map(({ method, path }) => ({ method, path }))
    for (let round = 0; round < 400; round++) {
      const { method, path } = pick(paths)
      const url = path
        .replace(':project', 'default')
        .replace(/:\w+/g, () => encodeURIComponent(pick(texts) || 'x'))
      const names = [
        'limit',
        'cursor',
        'state',
        'attempt',
        'rank',
        'since',
        'head',
        'name',
        'after',
        'path',
        'contains',
      ]
      const query = random.integer(2) === 0 ? '' : `?${new URLSearchParams({ [pick(names)]: pick(texts) })}`
      const object = () => Object.fromEntries([1, 2, 3].map(() => [pick(fields), pick(values)]))
      const body =
        method === 'GET' ? undefined : JSON.stringify(pick([object(), { file: object() }, pick(values)]))
      const response = await fetch(`${service.url}/api/v1${url}${query}`, {
        method,
        headers: {
          authorization: `Bearer ${service.ownerKey}`,
          ...(body !== undefined && { 'content-type': 'application/json' }),
        },
        ...(body !== undefined && { body }),
        signal: AbortSignal.timeout(2_000),
      }).catch((error: Error) => error)
      // Whoever watches a job that waits hears nothing for a while.
      if (response instanceof Error) continue
      const said = `${method} ${url}${query} ${body}: ${response.status}`
      expect(response.status, said).toBeLessThan(500)
      await response.body?.cancel()
    }
    expect(service.log.filter((line) => line.includes('"level":50'))).toEqual([])
  })
})
