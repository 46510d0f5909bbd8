/** An adapter in training as `NAME:latest` of a deployment: a real job, a real replica, the gateway before it. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createDeployment } from '../../src/api/control/deployments.ts'
import { createJobEndpoint, stopJob, viewJob } from '../../src/api/control/job-endpoints.ts'
import { rollbackPublication, viewPublication } from '../../src/api/control/publications.ts'
import { chats, type TuningService, tuningService, upload } from './harness.ts'

let service: TuningService
beforeAll(async () => {
  service = await tuningService()
})
afterAll(() => service[Symbol.asyncDispose](), 60_000)

async function ask(model: string): Promise<{ model: string; text: string }> {
  const answer = await service.client.chat.completions.create({
    ...{ model, max_tokens: 8, temperature: 0 },
    messages: [{ role: 'user', content: 'rope 3' }],
  })
  return { model: answer.model, text: answer.choices[0]!.message.content! }
}

test('under load a DoRA adapter in training becomes NAME:latest without a failed request, and goes back at once', async () => {
  const { client, bench } = service
  const { owner } = bench.service
  const project = 'default'
  await owner.call(createDeployment, {
    params: { project },
    body: { name: 'poet', version: { model: 'tiny', engine: { threads: 1 } } },
  })
  expect((await ask('poet')).model).toBe('poet')
  const data = await upload(client, chats(24))
  const file = {
    name: 'verses',
    model: { from: 'checkpoint:tiny-base' },
    method: { lora: { rank: 2, alpha: 4, dora: true } },
    data: { train: `dataset:${data}/chats.jsonl`, validation: 0 },
    ...{ context: 64, batch: 2, steps: 300, seed: 1 },
    optimizer: { learning_rate: 0.02 },
    checkpoint: { every: 150, keep: 1 },
    publish: { deployment: 'poet', every: '50 steps' },
  }
  const begin = async (file: Record<string, unknown>) =>
    (await owner.call(createJobEndpoint, { params: { project }, body: { file } })).id
  // So long that it goes on for whatever time a slow machine takes to find two of its versions.
  const endless = await begin({ ...file, name: 'more-verses', steps: 1_000_000 })
  const params = { project, deployment: 'poet' }
  const published = () => owner.call(viewPublication, { params }).catch(() => undefined)
  await expect.poll(published).toBeDefined()
  const texts = new Map<string, Set<string>>()
  const failures: unknown[] = []
  let isTraining = true
  const clients = Array.from({ length: 3 }, async () => {
    while (isTraining) {
      try {
        const { model, text } = await ask('poet:latest')
        texts.set(model, (texts.get(model) ?? new Set()).add(text))
      } catch (error) {
        failures.push(error)
      }
    }
  })
  const state = async (job: string) => (await owner.call(viewJob, { params: { project, job } })).state
  await expect.poll(async () => (await published())!.previous, { interval: 200 }).not.toBe(null)
  expect(await state(endless)).toBe('running')
  await owner.call(stopJob, { params: { project, job: endless } })
  await expect.poll(() => state(endless), { interval: 200 }).toBe('stopped')
  // What a job ends with is published, too; found so late that it is the only one of its own, it has one before it all the same.
  const ending = await begin(file)
  await expect.poll(() => state(ending), { interval: 200 }).toBe('success')
  await expect.poll(async () => (await published())!.current).toMatchObject({ job: ending, step: 300 })
  const { current, previous } = (await published())!
  await expect.poll(() => texts.has(current.name)).toBe(true)
  // Back and forth, while the others go on asking.
  const back = await owner.call(rollbackPublication, { params })
  expect(back.current).toEqual(previous)
  expect((await ask('poet:latest')).model).toBe(previous!.name)
  expect((await ask(current.name)).model).toBe(current.name)
  await owner.call(rollbackPublication, { params })
  expect((await ask('poet:latest')).model).toBe(current.name)
  expect(await published()).toMatchObject({ current, previous })
  isTraining = false
  await Promise.all(clients)
  expect(failures).toEqual([])
  expect(texts.size).toBeGreaterThan(1)
  // Greedy and the same prompt: more texts than one would be more than one version.
  for (const [name, said] of texts) expect([name, said.size]).toEqual([name, 1])
  expect((await client.models.list()).data.map((one) => one.id)).toContain('poet:latest')
}, 180_000)
