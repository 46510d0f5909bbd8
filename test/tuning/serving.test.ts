/** Checkpoints of fine-tuning jobs as models by name, answered by real replicas behind the gateway. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createDeployment } from '../../src/api/control/deployments.ts'
import { dataOf } from '../../src/cli/service-parts.ts'
import { deploymentNouns } from '../../src/control/deployments/rows.ts'
import { chats, type TuningService, tuningService, upload } from './harness.ts'

let service: TuningService
beforeAll(async () => {
  service = await tuningService()
})
afterAll(() => service[Symbol.asyncDispose](), 60_000)

async function tuned(adaptation: 'lora' | 'full') {
  const { client } = service
  const hyperparameters = { n_epochs: 2, batch_size: 4, learning_rate_multiplier: 50 }
  const { id } = await client.fineTuning.jobs.create({
    ...{ model: 'tiny', suffix: adaptation, training_file: await upload(client, chats(24)) },
    method: { type: 'supervised', supervised: { hyperparameters }, adaptation } as never,
  })
  const status = async () => (await client.fineTuning.jobs.retrieve(id)).status
  await expect.poll(status).toBe('succeeded')
  return await client.fineTuning.jobs.retrieve(id)
}

async function said(model: string) {
  const answer = await service.client.chat.completions.create({
    ...{ model, max_tokens: 4, temperature: 0, logprobs: true },
    messages: [{ role: 'user', content: 'rope 3' }],
  })
  expect(answer.model).toBe(model)
  return answer.choices[0]!.logprobs!.content!.map(({ logprob }) => logprob)
}

test('what a job ends with and each of its checkpoints answer at once, beside their base', async () => {
  const { client, bench } = service
  const job = await tuned('lora')
  const model = job.fine_tuned_model!
  const own = await said(model)
  const checkpoints = (await client.fineTuning.jobs.checkpoints.list(job.id)).data
  const [last, first] = checkpoints.map((one) => one.fine_tuned_model_checkpoint)
  expect(await said(last!)).toEqual(own)
  expect(await said(first!)).not.toEqual(own)
  const { rows } = await deploymentNouns(bench.service.store).list({ limit: 10 })
  expect(rows.map(({ name }) => name)).toEqual([expect.stringMatching(/^ft-tiny-/)])
  expect(await said(rows[0]!.name)).not.toEqual(own)
  const stream = await client.chat.completions.create({
    ...{ model, max_tokens: 3, stream: true },
    messages: [{ role: 'user', content: 'rope' }],
  })
  for await (const chunk of stream) expect(chunk.model).toBe(model)
  const models = (await client.models.list()).data
  expect(models.map(({ id }) => id)).toEqual(
    expect.arrayContaining(['tiny', model, first, last, rows[0]!.name]),
  )
  // Clients take a name from the list and look it up: the base too, for which no deployment answers.
  for (const listed of models) expect(await client.models.retrieve(listed.id)).toEqual(listed)
  const base = client.completions.create({ model: 'tiny', prompt: 'x' })
  expect(await base.catch(({ code }) => code)).toBe('model_not_found')
  expect(await client.models.retrieve('tinier').catch(({ code }) => code)).toBe('model_not_found')
  expect(await said(`${model}:ckpt-step-999`).catch(({ status, code }) => [status, code])).toEqual([
    404,
    'model_not_found',
  ])
  // Another project's key finds nothing under the name.
  const { owner } = bench.service
  const { createProject } = await import('../../src/api/control/projects.ts')
  const { createKey } = await import('../../src/api/control/keys.ts')
  const params = { organisation: 'main' }
  await owner.call(createProject, { params, body: { name: 'other', title: 'Other' } })
  const { key } = await owner.call(createKey, { params: { project: 'other' }, body: { name: 'k' } })
  const stranger = client.withOptions({ apiKey: key })
  const asked = stranger.completions.create({ model, prompt: 'x' })
  expect(await asked.catch(({ code }) => code)).toBe('model_not_found')
  for (const id of [model, 'tiny'])
    expect(await stranger.models.retrieve(id).catch(({ code }) => code)).toBe('model_not_found')
})

test('a job that trained all weights answers by a deployment that wakes for it', async () => {
  const job = await tuned('full')
  const own = await said(job.fine_tuned_model!)
  expect(own).toHaveLength(4)
  const { checkpoints } = dataOf(service.bench.parts)
  const { rows } = await deploymentNouns(service.bench.service.store).list({ limit: 10 })
  const row = await checkpoints.jobStep(job.id.replace('ftjob-', 'job_'), 999_999)
  expect(row).toBeUndefined()
  expect(rows.filter(({ spec }) => spec.scaling.min === 0)).toHaveLength(rows.length)
})

test('a base is marked where a deployment answers under its name, too', async () => {
  const { client, bench } = service
  const params = { project: 'default' }
  const body = { name: 'tiny', version: { model: 'tiny' }, scaling: { min: 0 } }
  await bench.service.owner.call(createDeployment, { params, body })
  const marks = async () => {
    const named = (await client.models.list()).data.filter(({ id }) => id === 'tiny')
    return named.map((model) => ({ ...model, created: 0 }))
  }
  const both = { id: 'tiny', object: 'model', created: 0, owned_by: 'ropeway', fine_tunable: true }
  await expect.poll(marks).toEqual([both])
})
