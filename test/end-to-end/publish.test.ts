import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Publication } from '../../src/train/publish/publisher.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { TemporaryFolder } from '../formats/folders.ts'
import { tinyJob } from '../train/tiny-job.ts'
import { type Served, serveReal } from './served.ts'

const folder = new TemporaryFolder()
let base: string
let served: Served

beforeAll(async () => {
  const model = { architecture: 'llama', layers: 2, heads: 2, width: 32 }
  base = (await runTrainingJob(tinyJob(folder.file('base'), { model, context: 32 }))).folder
  mkdirSync(folder.file('run'))
  served = await serveReal(base, {}, { adapterRoots: [folder.path] })
})
afterAll(async () => {
  await served[Symbol.asyncDispose]()
  folder[Symbol.dispose]()
})

function job(to: string, name = 'run') {
  return tinyJob(folder.file(name), {
    ...{ model: { from: base }, tokenizer: undefined, context: 32, steps: 60 },
    method: { lora: { rank: 2, alpha: 4 } },
    optimizer: { learning_rate: 0.05 },
    checkpoint: { every: 30, keep: 1 },
    publish: { deployment: 'poet', every: '5 steps', to },
  })
}

async function ask(name: string): Promise<{ status: number; model: string; text: string }> {
  const response = await fetch(`${served.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: name, prompt: 'the moving', max_tokens: 12, temperature: 0 }),
  })
  const body = (await response.json()) as { model: string; choices?: { text: string }[] }
  return { status: response.status, model: body.model, text: body.choices?.[0]?.text ?? '' }
}

test('an adapter answers while it is trained, and under load not one request fails', async () => {
  const published: Publication[] = []
  const notes: string[] = []
  const texts = new Map<string, Set<string>>()
  const failures: unknown[] = []
  let asked = 0
  let training = true
  const client = async () => {
    while (training) {
      // Before the first version there is nothing to ask.
      if (published.length === 0) {
        await new Promise((resolve) => setImmediate(resolve))
        continue
      }
      const { status, model, text } = await ask('poet:latest')
      asked++
      if (status !== 200) failures.push({ status, model })
      texts.set(model, (texts.get(model) ?? new Set()).add(text))
    }
  }
  const clients = Array.from({ length: 4 }, client)
  const result = await runTrainingJob(job(served.url), {
    onPublished: (publication) => published.push(publication),
    onNote: (text) => notes.push(text),
  })
  training = false
  await Promise.all(clients)
  expect(failures).toEqual([])
  expect(asked).toBeGreaterThan(0)
  expect(published.length).toBeGreaterThan(1)
  expect(notes.filter((text) => text.includes('was not published'))).toEqual([])
  // Greedy and the same prompt: more texts than one would be more than one version.
  for (const [version, said] of texts) expect([version, said.size]).toEqual([version, 1])
  expect(published.at(-1)!.stepsDone).toBe(result.stepsDone)
  const last = await ask('poet')
  expect(last.model).toBe(published.at(-1)!.version)
  const back = await fetch(`${served.url}/v1/adapters/poet/rollback`, { method: 'POST', body: '{}' })
  expect(await back.json()).toMatchObject({ version: published.at(-2)!.version })
  expect((await ask('poet:latest')).model).toBe(published.at(-2)!.version)
  expect(readdirSync(join(folder.path, 'run', 'out', 'published')).length).toBeLessThanOrEqual(3)
})

test('an engine that is away is told of once, and the run ends well', async () => {
  const notes: string[] = []
  const result = await runTrainingJob(job('http://127.0.0.1:9', 'away'), {
    onNote: (text) => notes.push(text),
  })
  expect(result.outcome).toBe('finished')
  expect(existsSync(result.folder)).toBe(true)
  expect(notes.filter((text) => text.includes('was not published'))).toHaveLength(1)
})

test('a job that trains whole models has nothing to publish', () => {
  const publish = { deployment: 'poet' }
  expect(() => tinyJob(folder.file('whole'), { publish })).toThrow(/publish gives adapters to an engine/)
})
