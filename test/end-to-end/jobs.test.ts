/** Jobs as people meet them: `ropeway up`, `ropeway job`, and a server that is killed. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import { stopJob, viewJob } from '../../src/api/control/job-endpoints.ts'
import type { JobView } from '../../src/api/control/jobs.ts'

const root = join(import.meta.dirname, '..', '..')
const home = mkdtempSync(join(tmpdir(), 'ropeway-jobs-'))
const environment = { ...process.env, ROPEWAY_HOME: home, ROPEWAY_THREADS: '1', NO_COLOR: '1' }
const command = [join(root, 'bin', 'ropeway.js')]
const waitMsMax = 120_000
let server: ChildProcess

async function startServer(): Promise<ChildProcess> {
  const child = spawn(process.execPath, [...command, 'up', '--port', '0'], {
    env: environment,
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let text = ''
  await new Promise<void>((resolve, reject) => {
    child.stderr!.on('data', (bytes) => {
      text += bytes
      if (text.includes('Ctrl-C stops it')) resolve()
    })
    child.on('exit', () => reject(new Error(text)))
  })
  return child
}

async function kill(): Promise<void> {
  process.kill(-server.pid!, 'SIGKILL')
  await once(server, 'exit')
}

beforeAll(async () => {
  server = await startServer()
})
afterAll(async () => {
  await kill()
  rmSync(home, { recursive: true, force: true, maxRetries: 9 })
})

async function ropeway(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [...command, ...args], { env: environment })
  let [out, err] = ['', '']
  child.stdout.on('data', (bytes) => (out += bytes))
  child.stderr.on('data', (bytes) => (err += bytes))
  const [code] = await once(child, 'close')
  return { code, out, err }
}

/** As the command line finds it. */
function client(): { client: Client; project: string } {
  const { current, contexts } = JSON.parse(readFileSync(join(home, 'contexts.json'), 'utf8'))
  return { client: new Client(contexts[current]), project: contexts[current].project }
}

async function until(job: string, condition: (view: JobView) => boolean): Promise<JobView> {
  const endMs = performance.now() + waitMsMax
  for (;;) {
    const { client: service, project } = client()
    const view = await service.call(viewJob, { params: { project, job } })
    if (condition(view)) return view
    if (performance.now() > endMs) throw new Error(`it is still ${view.state}: ${view.message}`)
    await delay(100)
  }
}

const isAtRest = ({ state }: JobView) => state === 'success' || state === 'failed' || state === 'stopped'

function folder(name: string, files: Record<string, string>): string {
  const path = join(home, 'work', name)
  mkdirSync(path, { recursive: true })
  for (const [file, content] of Object.entries(files)) writeFileSync(join(path, file), content)
  return join(path, 'job.yml')
}

const tiny = {
  name: 'tiny',
  model: { architecture: 'llama', layers: 1, width: 16, heads: 2 },
  data: { text: 'text.txt' },
  tokenizer: 'characters',
  context: 16,
  batch: 4,
  steps: 400,
  optimizer: { learning_rate: 0.003 },
  checkpoint: { every: 50 },
  evaluate: { every: 200, batches: 2 },
}

test('a training job survives the death of the server, ends with success and was run once', async () => {
  const text = 'all work and no play makes a dull text to learn from; '.repeat(200)
  const file = folder('tiny', { 'job.yml': JSON.stringify(tiny), 'text.txt': text })
  const made = await ropeway('job', 'run', '-f', file, '-d')
  expect([made.code, made.out.trim()], made.err).toEqual([0, 'tiny'])
  await until('tiny', ({ steps_done, checkpoint_step }) => steps_done > 0 && checkpoint_step > 0)
  await kill()
  server = await startServer()
  const done = await until('tiny', isAtRest)
  expect([done.state, done.message, done.attempt, done.steps_done]).toEqual([
    'success',
    'Every rank ended with 0.',
    1,
    400,
  ])
  const why = await ropeway('job', 'why', 'tiny')
  const kinds = why.out.split('\n').flatMap((line) => line.split(/\s{2,}/)[1] ?? [])
  // Beside them stands what the trainer said.
  expect(kinds.filter((kind) => kind !== 'note')).toEqual([
    'waiting',
    'allocating',
    'preparing',
    'running',
    'success',
  ])
  const log = await ropeway('job', 'logs', 'tiny')
  expect(log.out).toContain('Finished after step 400')
  const metrics = await ropeway('job', 'metrics', 'tiny', 'loss')
  const losses = metrics.out
    .trim()
    .split('\n')
    .map((line) => Number(line.split('\t')[1]))
  expect(losses.at(-1)!).toBeLessThan(losses[0]!)
  const artifacts = await ropeway('job', 'artifacts', 'tiny', '--json')
  expect(artifacts.out).toContain('checkpoints/step-000400/model.safetensors')
}, 180_000)

test('a command with its folder is run attached, with its exit code, and can be retried and deleted', async () => {
  const job = { name: 'broken', run: ['sh', 'run.sh'], job: { retries: 0 } }
  const file = folder('broken', { 'job.yml': JSON.stringify(job), 'run.sh': 'echo here; ls; exit 3\n' })
  const run = await ropeway('job', 'run', '-f', file)
  expect(run.code).toBe(1)
  expect(run.err).toContain('Rank 0 ended with code 3.')
  const log = await ropeway('job', 'logs', 'broken', '--contains', 'her')
  expect(log.out).toBe('here\n')
  const retry = await ropeway('job', 'retry', 'broken')
  expect(retry.code, retry.err).toBe(0)
  await until('broken', ({ state, attempt }) => state === 'failed' && attempt === 2)
  expect((await ropeway('job', 'delete', 'broken', '-y')).code).toBe(0)
  expect((await ropeway('job', 'view', 'broken')).code).toBe(3)
  const left = await ropeway('job', 'list', '--quiet')
  expect(left.out.split('\n').filter((line) => line.startsWith('job_'))).toHaveLength(1)
})

test('stop lets a job end, and what waits behind it gets its turn', async () => {
  const file = folder('long', { 'job.yml': JSON.stringify({ name: 'long', run: ['sleep', '600'] }) })
  await ropeway('job', 'run', '-f', file, '-d')
  await until('long', ({ state }) => state === 'running')
  await ropeway('job', 'run', '-f', file, '-d', '--name', 'next', '--priority', '40')
  await until('next', ({ message }) => message.includes('are free'))
  const { client: service, project } = client()
  await service.call(stopJob, { params: { project, job: 'long' } })
  await until('long', ({ state }) => state === 'stopped')
  await until('next', ({ state }) => state === 'running')
  expect((await ropeway('job', 'stop', 'next')).code).toBe(0)
  await until('next', isAtRest)
})

test('a job that names what the service does not have ends, and says so', async () => {
  const training = { context: 16, batch: 1, steps: 1, optimizer: { learning_rate: 0.001 } }
  const texts = { train: 'texts.jsonl' }
  const architecture = { architecture: 'llama', layers: 1, width: 16, heads: 1 }
  for (const [name, file, why] of [
    ['nodata', { ...training, model: architecture, data: { train: 'dataset:none' } }, /There is no dataset/],
    ['nomodel', { ...training, model: { from: 'model:none' }, data: texts }, /There is no model "none"/],
  ] as const) {
    const path = folder(name, {
      'job.yml': JSON.stringify({ name, tokenizer: 'characters', ...file }),
      'texts.jsonl': '{"text": "once"}\n',
    })
    const { code, err } = await ropeway('job', 'run', '-f', path)
    expect(err).toMatch(why)
    expect([code, (await until(name, isAtRest)).state]).toEqual([1, 'failed'])
  }
})
