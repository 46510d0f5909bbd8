/**
 * How long list endpoints take when there is much to list: first pages and pages in the middle, over HTTP, on both
 * databases (PostgreSQL where it is installed).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { pino } from 'pino'
import { listProjectAudit } from '../src/api/control/audit.ts'
import { Client } from '../src/api/control/client.ts'
import { listCredentials } from '../src/api/control/credentials.ts'
import { listJobs } from '../src/api/control/job-endpoints.ts'
import { listKeys } from '../src/api/control/keys.ts'
import { listEvents, viewProject } from '../src/api/control/projects.ts'
import { systemClock } from '../src/base/clock.ts'
import { Random } from '../src/base/random.ts'
import { Sealer } from '../src/control/credentials/sealer.ts'
import { JobFolders } from '../src/control/jobs/folders.ts'
import { Jobs } from '../src/control/jobs/jobs.ts'
import { jobMigrations } from '../src/control/jobs/migration.ts'
import { jobRoutes } from '../src/control/jobs/routes.ts'
import type { JobSpec, JobStatus } from '../src/control/jobs/rows.ts'
import { makeFirstOwner } from '../src/control/people/first-owner.ts'
import { passwordCost } from '../src/control/people/passwords.ts'
import { buildService } from '../src/control/service/app.ts'
import { baseMigrations, baseRoutes } from '../src/control/service/modules.ts'
import { openStore, type Store } from '../src/control/store/store.ts'
import { PostgresServer, postgresMissing } from '../test/store/postgres-server.ts'
import { type Bench, runFromCommandLine } from './harness/bench.ts'
import { quantile, rounded } from './harness/comparison.ts'

const parameters = {
  /** Of each noun, in one project. */
  rows: { small: 200, large: 100_000 },
  /** Of each list: half of them first pages, half somewhere in the middle. */
  requests: { small: 4, large: 400 },
  pageRows: { small: 20, large: 50 },
} as const

type Wanted = { readonly [Name in keyof typeof parameters]: number }
/** One page, from where the last one ended. */
type Ask = (cursor: string | undefined) => Promise<string | undefined>

export const listsBench: Bench<typeof parameters> = {
  name: 'lists',
  parameters,
  run: async (wanted, { say }) => {
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-bench-lists-'))
    try {
      const libsql = await measureOn('libsql', join(folder, 'ropeway.db'), wanted, say)
      if (postgresMissing !== undefined) {
        say(`PostgreSQL is left out: ${postgresMissing}`)
        return { figures: libsql, comparisons: [] }
      }
      await using server = await PostgresServer.start()
      const postgres = await measureOn('postgres', await server.database(), wanted, say)
      return { figures: { ...libsql, ...postgres }, comparisons: [] }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  },
}

async function measureOn(kind: string, url: string, wanted: Wanted, say: (line: string) => void) {
  await using store = await openStore(url, {
    migrations: [...baseMigrations, ...jobMigrations],
    clock: systemClock,
  })
  const { key } = (await makeFirstOwner(store))!
  const log = pino({ level: 'silent' })
  const sealer = new Sealer(new Uint8Array(32))
  const context = { store, log, sealer, scrypt: passwordCost, signUp: 'invited' as const }
  const jobs = new Jobs({ store, wake: () => undefined })
  const routes = [jobRoutes({ jobs, clusters: new Map(), folders: new JobFolders(tmpdir()) })]
  const app = await buildService(context, [...baseRoutes, ...routes])
  try {
    const client = new Client({ url: await app.listen({ port: 0, host: '127.0.0.1' }), token: key })
    const { id } = await client.call(viewProject, { params: { project: 'default' } })
    await fill(store, id, wanted.rows)
    // As a database that has been in use has it; PostgreSQL's own housekeeping would come in the middle.
    await sql`analyze`.execute(store.db())
    say(`${kind}: ${wanted.rows} rows of each noun`)
    const figures: Record<string, number> = {}
    for (const [name, ask] of Object.entries(lists(client, wanted.pageRows))) {
      const timesMs = (await times(ask, wanted)).sort((a, b) => a - b)
      figures[`${kind}.${name}.p50Ms`] = rounded(quantile(timesMs, 0.5))
      figures[`${kind}.${name}.p99Ms`] = rounded(quantile(timesMs, 0.99))
      say(`${kind} ${name}: ${JSON.stringify(figures[`${kind}.${name}.p99Ms`])} ms at p99`)
    }
    return figures
  } finally {
    await app.close()
  }
}

function lists(client: Client, limit: number): Record<string, Ask> {
  const params = { project: 'default' }
  const query = (cursor: string | undefined) => ({ limit, ...(cursor !== undefined && { cursor }) })
  const jobs = (state?: string) => async (cursor: string | undefined) => {
    const filter = state === undefined ? {} : { state }
    return (await client.call(listJobs, { params, query: { ...query(cursor), ...filter } })).next ?? undefined
  }
  return {
    keys: async (cursor) => (await client.call(listKeys, { params, query: query(cursor) })).next ?? undefined,
    credentials: async (cursor) =>
      (await client.call(listCredentials, { params, query: query(cursor) })).next ?? undefined,
    audit: async (cursor) =>
      (await client.call(listProjectAudit, { params, query: query(cursor) })).next ?? undefined,
    events: async (cursor) =>
      (await client.call(listEvents, { params, query: query(cursor) })).next ?? undefined,
    jobs: jobs(),
    jobsRunning: jobs('running'),
    /** A page of them is all that there is. */
    jobsFailed: jobs('failed'),
    jobsOfSeveralStates: jobs('failed,running,stopped'),
  }
}

async function times(ask: Ask, { requests, rows, pageRows }: Wanted): Promise<number[]> {
  const random = new Random(1)
  const measured: number[] = []
  let cursor: string | undefined
  for (let i = 0; i < requests; i++) {
    const startedMs = systemClock.nowMs()
    const next = await ask(i % 2 === 0 ? undefined : cursor)
    measured.push(systemClock.nowMs() - startedMs)
    // Walks on from page to page in between, so that the middle is reached.
    cursor = i % 2 === 0 ? (cursor ?? next) : next
    for (let skipped = random.integer(Math.min(5, rows / pageRows)); skipped > 0; skipped--)
      cursor = await ask(cursor)
  }
  return measured
}

const batchRows = 500

const jobSpec: JobSpec = {
  kind: 'run',
  file: { name: 'job', run: ['python', 'train.py'], env: { SEED: '1' }, processes: 1, grace: '30s' },
  placement: { device: 'cpu', devices: 1, priority: 50, retries: 3, heartbeat_timeout: 600_000 },
  processes: 1,
  graceMs: 30_000,
}
const jobStatus: JobStatus = {
  reason: 'all_running',
  message: 'Every rank runs.',
  retriesUsed: 0,
  retryStep: 0,
  stepsDone: 0,
  totalSteps: 100_000,
  checkpointStep: 0,
  metrics: { loss: 2.5, learning_rate: 0.0003 },
  read: { 0: 1234 },
}

async function fill(store: Store, project: string, rows: number): Promise<void> {
  const person = (
    await store.db<{ people: { id: string } }>().selectFrom('people').select('id').executeTakeFirstOrThrow()
  ).id
  const nowMs = store.clock.unixMs()
  const noun = {
    version: 1,
    created_at: nowMs,
    updated_at: nowMs,
    deleted_at: null,
    lease_owner: null,
    lease_until: null,
  }
  const row: Record<string, (i: number) => object> = {
    keys: (i) => ({
      ...{
        id: store.ids.next('key'),
        sha256: `${i}`.padStart(64, '0'),
        shown: 'rwk_......',
        name: `key ${i}`,
      },
      ...{
        person_id: person,
        project_id: project,
        role_max: 'develop',
        scopes_json: ['job:view'],
        limits_json: {},
      },
      ...{ version: 1, created_at: nowMs, expires_at: null, last_used_at: null, revoked_at: null },
    }),
    credentials: (i) => ({
      ...noun,
      ...{ id: store.ids.next('credential'), project_id: project, name: `c${i}`, sealed: 'x'.repeat(200) },
      ...{ spec: { kind: 's3', fields: ['access_key_id', 'secret_access_key'] }, status: {} },
    }),
    audit: (i) => ({
      ...{
        id: store.ids.next('audit'),
        at: nowMs,
        organisation_id: null,
        project_id: project,
        person_id: person,
      },
      ...{
        actor_id: person,
        action: 'job.create',
        subject: `job_${i}`,
        address: '127.0.0.1',
        request_id: 'req',
      },
      details: { name: `job ${i}` },
    }),
    events: (i) => ({
      ...{ id: store.ids.next('event'), subject_id: `job_${i % 1000}`, project_id: project, at: nowMs },
      ...{ kind: 'job.running', message: 'The job runs on 1 device of local.', details: { attempt: 1 } },
    }),
    jobs: (i) => ({
      ...noun,
      ...{ id: store.ids.next('job'), project_id: project, name: `job-${i}` },
      ...{ spec: jobSpec, status: { ...jobStatus, stepsDone: i } },
      ...{
        state: i % 2000 === 1 ? 'failed' : i % 20 === 0 ? 'running' : 'success',
        since: nowMs,
        priority: 0,
        device_type: 'cpu',
        devices: 1,
      },
      ...{ wanted_cluster: null, cluster: 'local', queued_at: nowMs, not_before: 0, due_at: 0, attempt: 1 },
      ...{ run_id: null, stop_requested: 0, preempted: 0 },
    }),
  }
  for (const [table, make] of Object.entries(row))
    await store.transaction(async () => {
      for (let first = 0; first < rows; first += batchRows) {
        const count = Math.min(batchRows, rows - first)
        const values = Array.from({ length: count }, (_, i) => make(first + i))
        await store.db<Record<string, object>>().insertInto(table).values(values).execute()
      }
    })
}

await runFromCommandLine(import.meta.url, listsBench)
