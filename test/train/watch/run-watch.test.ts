import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { z } from 'zod'
import { systemClock } from '../../../src/base/clock.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import { RunWatch } from '../../../src/train/watch/run-watch.ts'
import { temporaryFolder } from '../temporary-folder.ts'
import { tinyJob } from '../tiny-job.ts'

const root = temporaryFolder('watch', afterAll)

/** A server on this machine that answers as `handle` says, and keeps what came. */
async function listening(
  handle: (path: string, body: unknown, request: IncomingMessage) => [number, unknown],
) {
  const calls: { path: string; body: unknown }[] = []
  const server: Server = createServer(async (request: IncomingMessage, response: ServerResponse) => {
    const parts: Buffer[] = []
    for await (const part of request) parts.push(part as Buffer)
    const text = Buffer.concat(parts).toString()
    const body: unknown = text === '' ? undefined : JSON.parse(text)
    calls.push({ path: request.url!, body })
    const [status, answer] = handle(request.url!, body, request)
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  afterAll(() => server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls }
}

async function watched(
  folder: string,
  watch: Record<string, unknown>,
  environment: Record<string, string> = {},
  stopsAtStart = false,
) {
  const notes: string[] = []
  const stop = new AbortController()
  const job = tinyJob(join(root, folder), { watch })
  const run = new RunWatch(job, systemClock, environment, (text) => notes.push(text))
  const result = await runTrainingJob(
    job,
    {
      onStart: (start) => {
        run.start(start)
        if (stopsAtStart) stop.abort()
      },
      onStep: (report) => run.step(report),
      onEvaluation: (evaluation) => run.evaluation(evaluation),
      onCheckpoint: ({ stepsDone, folder: at }) => run.checkpoint(stepsDone, at),
    },
    stop.signal,
  )
  await run.end(result)
  return { job, notes }
}

const metric = z.strictObject({
  key: z.string().max(250),
  value: z.number(),
  timestamp: z.int(),
  step: z.int(),
})
const entry = z.strictObject({ key: z.string().max(250), value: z.string().max(6000) })
/** Bodies as mlflow.org documents them for the REST API 2.0. */
const bodies: Record<string, z.ZodType> = {
  'experiments/create': z.strictObject({ name: z.string() }),
  'runs/create': z.strictObject({
    experiment_id: z.string(),
    run_name: z.string(),
    start_time: z.int(),
    tags: z.array(entry),
  }),
  'runs/log-batch': z.strictObject({
    run_id: z.literal('run-7'),
    metrics: z.array(metric).max(1000).optional(),
    params: z.array(entry).max(100).optional(),
  }),
  'runs/update': z.strictObject({
    run_id: z.literal('run-7'),
    status: z.enum(['RUNNING', 'FINISHED', 'FAILED', 'KILLED']),
    end_time: z.int().optional(),
  }),
}

test('MLflow gets one run of documented calls over two lives, and every point of it', async () => {
  const authorizations = new Set<string | undefined>()
  const { url, calls } = await listening((path, body, request) => {
    authorizations.add(request.headers.authorization)
    const call = path.replace('/api/2.0/mlflow/', '')
    if (call.startsWith('experiments/get-by-name?experiment_name=rope%20way'))
      return [404, { error_code: 'RESOURCE_DOES_NOT_EXIST' }]
    const checked = bodies[call]?.safeParse(body)
    if (checked?.success !== true) return [400, { error_code: 'INVALID_PARAMETER_VALUE' }]
    if (call === 'experiments/create') return [200, { experiment_id: '3' }]
    return [200, call === 'runs/create' ? { run: { info: { run_id: 'run-7' } } } : {}]
  })
  const watch = { mlflow: { url, experiment: 'rope way' } }
  const secrets = { MLFLOW_TRACKING_TOKEN: 'hidden' }
  const first = await watched('mlflow', watch, secrets, true)
  const second = await watched('mlflow', watch, secrets)
  expect([...first.notes, ...second.notes]).toEqual([])
  expect([...authorizations]).toEqual(['Bearer hidden'])
  const ends = calls.map(({ path }) => path.replace('/api/2.0/mlflow/', '').split('?')[0])
  expect(ends.filter((path) => path === 'runs/create')).toHaveLength(1)
  const points = calls.flatMap(({ body }) => (body as { metrics?: z.output<typeof metric>[] })?.metrics ?? [])
  expect(points.filter(({ key }) => key === 'loss').map(({ step }) => step)).toEqual(
    Array.from({ length: 12 }, (_, i) => i + 1),
  )
  expect(points.filter(({ key }) => key === 'held_out_loss')).toHaveLength(3)
  const statuses = calls.flatMap(({ path, body }) =>
    path.endsWith('runs/update') ? [(body as { status: string }).status] : [],
  )
  expect(statuses).toEqual(['KILLED', 'RUNNING', 'FINISHED'])
})

test('a server that refuses is told of once and does not fail the run', async () => {
  const { url } = await listening(() => [500, { message: 'broken' }])
  const { notes } = await watched('refusing', { mlflow: { url } })
  expect(notes).toHaveLength(2)
  expect(notes[0]).toMatch(
    /^MLflow at 127.0.0.1:\d+ takes no events \(status 500: .*broken.*training goes on/,
  )
  expect(notes[1]).toMatch(/did not get \d+ events/)
})

test('a web hook hears of start and end, and nobody hears its address', async () => {
  const { url, calls } = await listening(() => [200, 'ok'])
  await watched('hook', { web_hook: { env: 'HOOK' } }, { HOOK: `${url}/T0/secret` })
  const texts = calls.map(({ body }) => z.strictObject({ text: z.string() }).parse(body).text)
  expect(texts[0]).toBe('Training of model began: 12 steps.')
  expect(texts[1]).toMatch(/^Training of model finished after step 12, loss \d\.\d{4}\.$/)
  expect(texts).toHaveLength(2)
  const { notes } = await watched('no-hook', { web_hook: 'http://127.0.0.1:9/T0/secret' })
  expect(notes.join()).toMatch(/web hook takes no events \(it cannot be reached\)/)
  expect(notes.join()).not.toContain('secret')
  await expect(watched('unset', { web_hook: { env: 'HOOK' } })).rejects.toThrow(
    /HOOK, which holds no address/,
  )
})

test('a web hook hears why a run failed', async () => {
  const { url, calls } = await listening(() => [200, 'ok'])
  const job = tinyJob(join(root, 'failing'), { watch: { web_hook: url } })
  const run = new RunWatch(job, systemClock, {}, () => undefined)
  await run.end({ outcome: 'failed' }, 'the disk is full')
  expect(calls.map(({ body }) => body)).toEqual([
    { text: 'Training of model failed after step 0: the disk is full' },
  ])
})

test("the files of a run go to the user's own wandb with their key, which nobody else hears", async () => {
  const programs = join(root, 'programs')
  mkdirSync(programs)
  const program = '#!/bin/sh\necho "$1 $WANDB_API_KEY"; ls "$2"; test "$WANDB_API_KEY" = right-key\n'
  writeFileSync(join(programs, 'wandb'), program, { mode: 0o755 })
  const environment = { PATH: `${programs}:${process.env.PATH}`, WANDB_API_KEY: 'right-key' }
  const watch = { wandb: { project: 'p', sync: true } }
  const { job, notes } = await watched('synced', watch, environment)
  expect(notes).toEqual(['Handing the run to wandb sync.'])
  const [folder] = readdirSync(join(job.out, 'wandb'))
  const log = readFileSync(join(job.out, 'wandb', folder!, 'sync.log'), 'utf8')
  expect(log).toMatch(/^sync \[key\]\nrun-[0-9a-f]{8}\.wandb\n$/)
  const refused = await watched('unsynced', watch, { ...environment, WANDB_API_KEY: 'wrong-key' })
  expect(refused.notes.join()).toMatch(/did not get the run \(exit code 1; see .*Its files stay: wandb sync/)
  expect(refused.notes.join()).not.toContain('wrong-key')
  const missing = await watched('nowhere', watch, { PATH: join(root, 'nothing') })
  expect(missing.notes.join()).toContain('there is no program wandb here')
})

test('metrics.jsonl has every step, and the other files appear where they were asked for', async () => {
  const { job, notes } = await watched('files', { tensorboard: true, wandb: { project: 'p' } })
  expect(notes).toEqual([])
  const lines = readFileSync(join(job.out, 'metrics.jsonl'), 'utf8').trimEnd().split('\n')
  const events = lines.map((line) => JSON.parse(line) as Record<string, unknown>)
  const steps = events.filter(({ loss }) => loss !== undefined)
  expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1))
  for (const name of ['gradient_norm', 'learning_rate', 'tokens_per_second', 'supervised_share'])
    expect(steps.every((line) => typeof line[name] === 'number')).toBe(true)
  expect(events.at(-1)).toMatchObject({ kind: 'end', outcome: 'finished', step: 12 })
  expect(readdirSync(join(job.out, 'tensorboard'))[0]).toMatch(/^events\.out\.tfevents\./)
  expect(existsSync(join(job.out, 'wandb'))).toBe(true)
})
