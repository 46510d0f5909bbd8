/** From data to an answer as people go it, on the command line, against the whole service in this process. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import { systemClock } from '../../src/base/clock.ts'
import { readContexts } from '../../src/cli/contexts.ts'
import { loopStarters } from '../../src/cli/service-parts.ts'
import { makeStarter } from '../../src/cli/starter.ts'
import type { Loop } from '../../src/control/service/loop.ts'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'

let bench: Workbench
const loops: Loop[] = []
beforeAll(async () => {
  process.env.ROPEWAY_THREADS = '1'
  bench = await workbench(systemClock, { leavesNothing: true })
  for (const start of loopStarters) loops.push(await start(bench.parts))
})
afterAll(async () => {
  for (const loop of loops.toReversed()) await loop.stop()
  await bench[Symbol.asyncDispose]()
})

async function done(...args: string[]) {
  const ran = await ropeway(args)
  expect(ran.code, `${args.join(' ')}\n${ran.err}`).toBe(0)
  return ran
}

const words = 'the sea was calm and the wind was low and nobody said a word; '.repeat(100)

test('a dataset becomes a job, a checkpoint, a model and a deployment that answers, and each knows the others', async () => {
  const texts = join(bench.folder, 'texts')
  const work = join(bench.folder, 'work')
  for (const folder of [texts, work]) mkdirSync(folder)
  writeFileSync(join(texts, 'sea.txt'), words)
  writeFileSync(join(bench.folder, 'more.txt'), 'and then the wind came back\n'.repeat(20))
  await done('dataset', 'upload', 'sea', texts)
  const job = {
    name: 'sailor',
    model: { architecture: 'llama', layers: 1, width: 32, heads: 2 },
    // Beside the job's folder: it becomes a dataset.
    data: { text: ['dataset:sea', '../more.txt'] },
    tokenizer: 'characters',
    context: 32,
    batch: 4,
    steps: 100,
    optimizer: { learning_rate: 0.003 },
    evaluate: { every: 100 },
  }
  writeFileSync(join(work, 'job.yml'), JSON.stringify(job))
  const trained = await done('train', join(work, 'job.yml'), '--steps', '6')
  expect(trained.err).toContain('success')
  await expect.poll(async () => (await ropeway(['checkpoint', '-q'])).out).toContain('_')
  await done('model', 'promote', 'sailor@latest', 'sailor', '--as', 'prod')
  await done('deployment', 'create', 'tales', '--model', 'sailor:prod', '--public', '--wait')
  const answer = await done('generate', 'tales', '-p', 'the sea', '--max-tokens', '5', '--json')
  expect(answer.json).toMatchObject([{ generatedTokens: 5 }])
  const way = (await done('model', 'lineage', 'sailor', '--json')).json
  const edges = way.flatMap((one) => one.edges ?? [one])
  expect(edges.map(({ from, to }) => `${from.label} -> ${to.label}`).sort()).toEqual([
    'checkpoint sailor-6 -> model sailor@1',
    'dataset sailor-more@1 -> job sailor',
    'dataset sea@1 -> job sailor',
    'job sailor -> checkpoint sailor-6',
    'model sailor@1 -> deployment tales',
  ])

  // Another version and the way back.
  await done('deployment', 'update', 'tales', '--model', 'checkpoint:sailor@6', '--wait')
  const served = async () => (await done('deployment', 'view', 'tales', '--json')).json[0].serving
  expect(await served()).toBe('v2')
  await done('deployment', 'rollback', 'tales')
  await expect.poll(served).toBe('v1')
  const refused = await ropeway(['model', 'delete', 'sailor', '-y'])
  expect([refused.code, refused.err]).toEqual([6, expect.stringContaining('used by the deployment tales')])
})

/** All words of a language with few. */
const few = {
  path: 'few.txt',
  content: () =>
    Array.from({ length: 20_000 }, (_, n) => `${(n * 7919) % 9973} word${(n * 31) % 997}s of ${n % 13}`).join(
      '\n',
    ),
}

test('the starter that was stopped in its training goes on from there, and is made once', async () => {
  const { url, token } = readContexts().contexts.local!
  const client = new Client({ url, token: token! })
  const make = (signal: AbortSignal) =>
    makeStarter({ client, project: 'default', steps: 6, threads: 1, isPublic: true, signal, texts: [few] })
  const stop = new AbortController()
  const stopped = make(stop.signal)
  const states = async () =>
    (await done('job', '--json')).json
      .filter(({ name }) => name === 'starter')
      .map(({ state }) => state as string)
  await expect.poll(states, { interval: 20 }).toEqual(['running'])
  stop.abort()
  expect(await stopped).toBeUndefined()
  expect(await states()).toEqual(['stopped'])
  const { signal } = new AbortController()
  expect(await make(signal)).toMatchObject({ name: 'starter', state: 'ready', public: true })
  expect(await states()).toEqual(['success'])
  await make(signal)
  expect(await states()).toEqual(['success'])
  for (const noun of ['dataset', 'model', 'deployment']) {
    const named = (await done(noun, '--json')).json.filter(({ name }) => name === 'starter')
    expect([noun, named.length]).toEqual([noun, 1])
  }
})
