/** Jobs on real processes, under a server that is killed. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createLogger } from '../../src/base/log.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { wrapperEntry } from '../../src/cli/wrapper-entry.ts'
import { sealerFromFile } from '../../src/control/credentials/sealer.ts'
import { eventsFile } from '../../src/control/jobs/contract.ts'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { LocalWorkplace } from '../../src/control/jobs/launch.ts'
import { type LogFilter, readJobLog } from '../../src/control/jobs/logs.ts'
import { startJobLoop } from '../../src/control/jobs/loop.ts'
import { deleteQuota, editCluster, ensureCluster, setQuota } from '../../src/control/jobs/machines.ts'
import { listMetrics, readMetric } from '../../src/control/jobs/metric-list.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import type { JobRow } from '../../src/control/jobs/rows.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { openStore } from '../../src/control/store/store.ts'

const child = join(import.meta.dirname, 'server-child.ts')
const waitMsMax = 60_000

async function startServer(home: string) {
  const server = spawn(process.execPath, [...runnerOf(child), child, home], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(server.stdout!, 'data')
  return {
    kill: async () => {
      process.kill(-server.pid!, 'SIGKILL')
      await once(server, 'exit')
    },
  }
}

async function open() {
  const home = mkdtempSync(join(tmpdir(), 'ropeway-real-'))
  const store = await openStore(join(home, 'ropeway.db'), { migrations: jobMigrations })
  await ensureCluster(store, 'local', { kind: 'local', slots: { cpu: 2 }, open: true })
  const jobs = new Jobs({ store, wake: () => undefined })
  const until = async (id: string, condition: (row: JobRow) => boolean): Promise<JobRow> => {
    const endMs = performance.now() + waitMsMax
    for (;;) {
      const row = await jobs.find('p', id)
      if (condition(row)) return row
      if (performance.now() > endMs) throw new Error(`it is still ${row.state}: ${row.status.message}`)
      await delay(50)
    }
  }
  const launcher = new LocalLauncher({
    root: join(home, 'runs'),
    devices: {},
    wrapper: wrapperEntry(),
  })
  const folders = new JobFolders(join(home, 'jobs'))
  const workplace = new LocalWorkplace({ folders, trainer: [] })
  return {
    folders,
    home,
    store,
    jobs,
    clusters: new Map([['local', { launcher, workplace }]]),
    until,
    [Symbol.asyncDispose]: async () => {
      await store.close()
      rmSync(home, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}

test('a job survives the death of its server, ends with success and was run once', async () => {
  await using real = await open()
  const first = await startServer(real.home)
  const proof = join(real.home, 'proof')
  writeFileSync(proof, '')
  const script = `echo begun >> ${proof}; while [ ! -e ${proof}.go ]; do sleep 0.05; done; echo done >> ${proof}`
  const { id } = await real.jobs.create('p', { file: { name: 'once', run: ['sh', '-c', script] } })
  await real.until(id, ({ state }) => state === 'running')
  await first.kill()
  writeFileSync(`${proof}.go`, '')
  const second = await startServer(real.home)
  const row = await real.until(id, ({ state }) => state !== 'running')
  await second.kill()
  expect([row.state, row.attempt, row.status.message]).toEqual(['success', 1, 'Every rank ended with 0.'])
  expect(readFileSync(proof, 'utf8')).toBe('begun\ndone\n')
  const { rows } = await real.jobs.events(row, { limit: 100 })
  expect(rows.map(({ kind }) => kind)).toEqual([
    'job.waiting',
    'job.allocating',
    'job.preparing',
    'job.running',
    'job.success',
  ])
})

test('a killed rank sends the job back to its checkpoint, and stop saves once more', async () => {
  await using real = await open()
  const server = await startServer(real.home)
  const program = join(import.meta.dirname, '..', 'sdk', 'programs', 'count.ts')
  const run = [process.execPath, ...runnerOf(program), program]
  const file = { name: 'count', run, env: { WAIT_AT: 4 } }
  const { id } = await real.jobs.create('p', { file })
  await real.until(id, ({ status }) => status.checkpointStep === 3 && status.totalSteps === 12)
  await real.jobs.stop('p', 'count')
  const stopped = await real.until(id, ({ state }) => state === 'stopped')
  expect(stopped.status.checkpointStep).toBe(4)
  expect(stopped.status.metrics).toHaveProperty('loss')
  await real.jobs.resume('p', 'count')
  // The program waits at step 4 only when it comes there; it goes on from behind it.
  const done = await real.until(id, ({ state }) => state === 'success' || state === 'failed')
  await server.kill()
  const summary = await listMetrics(real.store, id)
  expect(summary.map(({ name, points }) => [name, points])).toEqual([
    ['loss', 12],
    ['state', 12],
  ])
  const loss = await readMetric(real.store, id, 'loss', 1, 3)
  expect(loss.map(({ step, value }) => [step, value])).toEqual([
    [2, 'NaN'],
    [3, 1 / 3],
    [4, 1 / 4],
  ])
  const log = async (filter: LogFilter) => {
    const { lines } = await readJobLog(real.store, real.clusters, done, filter, undefined)
    return lines.map(({ attempt, rank, text }) => `${attempt}.${rank} ${text}`)
  }
  expect(await log({ attempt: 1 })).toEqual(['1.0 waiting', expect.stringMatching(/^1\.0 state \d+ after 4/)])
  expect(await log({})).toEqual([expect.stringMatching(/^2\.0 state \d+ after 12/)])
  expect(await log({ contains: 'nothing like it' })).toEqual([])
  expect(await log({ sinceMs: done.updated_at + 60_000 })).toEqual([])
  expect([done.state, done.attempt, done.status.stepsDone]).toEqual(['success', 2, 12])
})

test('a program whose failure is final is not tried again, and the job says why: bad data, a loss beyond help', async () => {
  await using real = await open()
  const server = await startServer(real.home)
  const program = join(import.meta.dirname, '..', 'sdk', 'programs', 'count.ts')
  const run = [process.execPath, ...runnerOf(program), program]
  const over = ({ state }: JobRow) => state === 'failed' || state === 'success'
  const { id } = await real.jobs.create('p', { file: { name: 'count', run, env: { HOPELESS_AT: 5 } } })
  const text = join(real.home, 'text.txt')
  writeFileSync(text, 'the rope never stops, the cabin turns.\n'.repeat(200))
  const model = { architecture: 'gpt2', layers: 1, heads: 2, width: 16 }
  const wild = {
    ...{ model, tokenizer: 'characters' },
    data: { text },
    context: 16,
    batch: 2,
    steps: 200,
    optimizer: { learning_rate: 1e30 },
  }
  const own = [
    { name: 'wild', ...wild },
    { name: 'empty', ...wild, data: { text: '/dev/null' } },
  ]
  const ours = []
  for (const file of own) ours.push(await real.jobs.create('p', { file }))
  const row = await real.until(id, over)
  expect([row.state, row.attempt, row.status.reason, row.status.message]).toEqual([
    ...['failed', 1, 'cannot_succeed', 'The count is wrong at 5.'],
  ])
  const [diverged, empty] = [await real.until(ours[0]!.id, over), await real.until(ours[1]!.id, over)]
  await server.kill()
  expect([diverged.state, diverged.attempt, diverged.status.reason]).toEqual(['failed', 1, 'cannot_succeed'])
  expect(diverged.status.message).toMatch(/^Training diverged in step \d+: .* Lower the learning rate/)
  expect([empty.state, empty.attempt, empty.status.reason]).toEqual(['failed', 1, 'cannot_succeed'])
  expect(empty.status.message).toMatch(/no text/)
})

test('a job waits, and says why, while its cluster is closed, its quota is used up, or nobody has its devices', async () => {
  await using real = await open()
  const server = await startServer(real.home)
  const waits = (id: string, words: string) => real.until(id, ({ status }) => status.message.includes(words))
  await editCluster(real.store, 'local', { open: false })
  const file = { name: 'patient', run: ['true'], job: { devices: 2 } }
  const { id } = await real.jobs.create('p', { file })
  await waits(id, 'No cluster that takes jobs has devices of type cpu.')
  await setQuota(real.store, 'p', 'cpu', 1)
  await editCluster(real.store, 'local', { open: true })
  await waits(id, 'uses 0 of the 1 that its quota allows')
  await deleteQuota(real.store, 'p', 'cpu')
  await real.until(id, ({ state }) => state === 'success')
  const { id: strange } = await real.jobs.create('p', { file: { run: ['true'], job: { device: 'tpu' } } })
  await waits(strange, 'devices of type tpu')
  const stopped = await real.jobs.stop('p', strange)
  expect(stopped.state).toBe('stopped')
  await server.kill()
})

test('a job saves when it is asked; a program that ends then goes on from there by itself', async () => {
  await using real = await open()
  const server = await startServer(real.home)
  const program = join(import.meta.dirname, '..', 'sdk', 'programs', 'count.ts')
  const run = [process.execPath, ...runnerOf(program), program]
  const { id } = await real.jobs.create('p', { file: { name: 'count', run, env: { WAIT_AT: 4 } } })
  await expect(real.jobs.save('p', 'count')).rejects.toThrow(/only a running job can save/)
  await real.until(id, ({ status }) => status.checkpointStep === 3 && status.totalSteps === 12)
  await real.jobs.save('p', 'count')
  const done = await real.until(id, ({ state }) => state === 'success' || state === 'failed')
  await server.kill()
  expect([done.state, done.attempt, done.status.stepsDone]).toEqual(['success', 2, 12])
  expect(done.status.saveAskedMs).toBeUndefined()
  const { rows } = await real.jobs.events(done, { limit: 100 })
  const waiting = rows.filter(({ kind }) => kind === 'job.waiting').at(-1)!
  expect(waiting.message).toBe('It saved, as it was asked, and ended; it goes on from there.')
})

/** A program that saves right after its reports were read, which is when the next thing is decided. */
class SavesBehindTheBack extends LocalWorkplace {
  readonly #folders: JobFolders
  hasSaved = false
  isAskedAgain = false

  constructor(folders: JobFolders) {
    super({ folders, trainer: [] })
    this.#folders = folders
  }

  override read(row: JobRow, nowMs: number) {
    const isAsked = this.isAskedToSave(row.id)
    this.isAskedAgain ||= this.hasSaved && isAsked
    const news = super.read(row, nowMs)
    if (!news.hasAny && isAsked && !this.hasSaved) {
      const saved = { event: 'checkpoint', t: 1, step: 5, folder: 'checkpoints/step-000005' }
      appendFileSync(eventsFile(this.#folders.output(row.id), row.attempt, 0), `${JSON.stringify(saved)}\n`)
      this.askToSave(row.id, false)
      this.hasSaved = true
    }
    return news
  }
}

/** What a program reports that no check of ours has seen. */
class ReportsNul extends LocalWorkplace {
  override read(row: JobRow, nowMs: number) {
    const news = super.read(row, nowMs)
    return news.hasAny ? { ...news, points: [{ name: 'a\0b', step: 1, at: nowMs, value: 1 }] } : news
  }
}

async function withLoop(real: Awaited<ReturnType<typeof open>>, workplace: LocalWorkplace) {
  const launcher = new LocalLauncher({
    ...{ root: join(real.home, 'runs'), devices: { cpu: 2 }, wrapper: wrapperEntry() },
  })
  return startJobLoop({
    ...{ store: real.store, log: createLogger('test', 'silent'), owner: 'loop-1' },
    sealer: sealerFromFile(join(real.home, 'secrets.key')),
    clusters: new Map([['local', { launcher, workplace }]]),
  })
}

/** Writes these events, and ends with code 3. */
function reporting(events: readonly object[]): string[] {
  const lines = events.map((event) => `${JSON.stringify({ t: 1, ...event })}\n`).join('')
  return ['sh', '-c', 'printf %s "$0" >> "$ROPEWAY_EVENTS"; exit 3', lines]
}

test('what a program reports is kept without the characters that no database takes', async () => {
  await using real = await open()
  const { jobs, folders, store } = real
  const loop = await withLoop(real, new LocalWorkplace({ folders, trainer: [] }))
  const run = reporting([
    { event: 'note', text: 'a\0note' },
    { event: 'metrics', step: 1, values: { 'lo\0ss': 1, 'lo\ud800ss': 2, 'lo\ud801ss': 3 } },
    { event: 'failure', text: 'PK\0 is no JSON.', final: true },
  ])
  const { id } = await jobs.create('p', { file: { name: 'nul', run } })
  const row = await real.until(id, ({ state }) => state === 'failed')
  const { rows } = await jobs.events(row, { limit: 100 })
  const names = (await listMetrics(store, id)).map(({ name }) => name)
  await loop.stop()
  expect([row.status.reason, row.status.message]).toEqual(['cannot_succeed', 'PK\ufffd is no JSON.'])
  expect(rows.map(({ message }) => message)).toContain('a\ufffdnote')
  expect(names).toEqual(['lo\ufffdss'])
})

test('a report that the store refuses ends its job with what was wrong, and gives the devices back', async () => {
  await using real = await open()
  const { jobs, folders } = real
  const loop = await withLoop(real, new ReportsNul({ folders, trainer: [] }))
  const run = ['sh', '-c', `echo '{"event":"note","t":1,"text":"x"}' >> "$ROPEWAY_EVENTS"; sleep 600`]
  const { id } = await jobs.create('p', { file: { name: 'nul', run, grace: '1s' } })
  const row = await real.until(id, ({ state }) => state === 'failed')
  await loop.stop()
  expect([row.status.reason, row.cluster]).toEqual(['cannot_store', null])
  expect(row.status.message).toMatch(/It reported what cannot be stored\. .*U\+0000/)
})

test('a program that has just saved is not asked for the same save again', async () => {
  await using real = await open()
  const { store, jobs, home, folders } = real
  const workplace = new SavesBehindTheBack(folders)
  const launcher = new LocalLauncher({
    ...{ root: join(home, 'runs'), devices: { cpu: 2 }, wrapper: wrapperEntry() },
  })
  const loop = startJobLoop({
    ...{ store, log: createLogger('test', 'warn'), owner: 'loop-1' },
    ...{
      sealer: sealerFromFile(join(home, 'secrets.key')),
      clusters: new Map([['local', { launcher, workplace }]]),
    },
  })
  const run = ['sh', '-c', 'while [ ! -e "$0" ]; do sleep 0.05; done', join(home, 'go')]
  const { id } = await jobs.create('p', { file: { name: 'saver', run } })
  await real.until(id, ({ state }) => state === 'running')
  await jobs.save('p', 'saver')
  await real.until(id, ({ status }) => status.checkpointStep === 5 && status.saveAskedMs === undefined)
  writeFileSync(join(home, 'go'), '')
  await real.until(id, ({ state }) => state === 'success')
  await loop.stop()
  expect([workplace.hasSaved, workplace.isAskedAgain]).toEqual([true, false])
})
