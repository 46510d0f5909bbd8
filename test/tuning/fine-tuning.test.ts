/** OpenAI's own client drives files and fine-tuning on a service whose jobs really train. */
import { APIError } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chats, preferences, type TuningService, tuningService, upload } from './harness.ts'

let service: TuningService
beforeAll(async () => {
  service = await tuningService()
}, 60_000)
afterAll(() => service[Symbol.asyncDispose]())

const fast = { n_epochs: 2, batch_size: 4, learning_rate_multiplier: 50 } as const

async function refusal(promise: Promise<unknown>): Promise<APIError> {
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(error).toBeInstanceOf(APIError)
  return error as APIError
}

async function untilOver(id: string) {
  const { client } = service
  await expect
    .poll(async () => (await client.fineTuning.jobs.retrieve(id)).finished_at, {
      timeout: 60_000,
      interval: 200,
    })
    .not.toBeNull()
  return await client.fineTuning.jobs.retrieve(id)
}

test('files are uploaded, listed, read, deleted; what is wrong is said in OpenAI’s shape', async () => {
  const { client } = service
  const first = await upload(client, chats(3), '../weird name.jsonl')
  const second = await upload(client, chats(4))
  const seen = await client.files.retrieve(first)
  expect(seen).toMatchObject({ filename: 'weird name.jsonl', purpose: 'fine-tune', status: 'processed' })
  expect(seen.bytes).toBe(chats(3).length)
  expect(await (await client.files.content(first)).text()).toBe(chats(3))
  const ids = []
  for await (const { id } of client.files.list({ limit: 1, order: 'asc' })) ids.push(id)
  expect(ids).toEqual([first, second])
  expect(await client.files.delete(first)).toEqual({ id: first, object: 'file', deleted: true })
  expect(await refusal(client.files.retrieve(first))).toMatchObject({ status: 404, code: 'file_not_found' })
  const wrong = client.files.create({ file: new File(['x'], 'x'), purpose: 'assistants' })
  expect(await refusal(wrong)).toMatchObject({ status: 400, param: 'purpose' })
  const create = (body: object) => client.fineTuning.jobs.create(body as never)
  expect(await refusal(create({ model: 'tiny', training_file: 'file-none' }))).toMatchObject({
    ...{ status: 404, param: 'training_file', code: 'file_not_found' },
  })
  expect(await refusal(create({ model: 'huge', training_file: second }))).toMatchObject({
    ...{ status: 404, param: 'model', code: 'model_not_found' },
  })
  const epochs = { n_epochs: 0 }
  expect(
    await refusal(create({ model: 'tiny', training_file: second, hyperparameters: epochs })),
  ).toMatchObject({ status: 400, param: 'hyperparameters.n_epochs' })
  const stranger = client.withOptions({ apiKey: 'rwk_none' })
  expect(await refusal(stranger.files.list().asResponse())).toMatchObject({
    status: 401,
    code: 'invalid_api_key',
  })
})

test('a supervised job is created, followed by its events, and leaves checkpoints and a file of its steps', async () => {
  const { client } = service
  const created = await client.fineTuning.jobs.create({
    model: 'tiny',
    training_file: await upload(client, chats(24)),
    validation_file: await upload(client, chats(5)),
    suffix: 'cabin',
    seed: 7,
    method: { type: 'supervised', supervised: { hyperparameters: fast } },
    metadata: { team: 'ropes' },
  })
  expect(created).toMatchObject({ object: 'fine_tuning.job', status: 'validating_files', seed: 7 })
  const job = await untilOver(created.id)
  expect(job.error).toBeNull()
  expect(job.status).toBe('succeeded')
  expect(job.fine_tuned_model).toMatch(/^ft:tiny:main:cabin:[0-9a-z]{10}$/)
  expect(job.trained_tokens).toBeGreaterThan(100)
  expect(job.hyperparameters).toMatchObject(fast)
  const events = []
  for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 5 })) events.unshift(event)
  const said = events.map(({ message }) => message)
  expect(said[0]).toBe(`Created fine-tuning job: ${job.id}`)
  expect(said).toContain('Files validated, moving job to queued state')
  expect(said.at(-1)).toBe('The job has successfully completed')
  expect(events.filter(({ type }) => type === 'metrics').at(-1)!.data).toMatchObject({
    step: expect.any(Number),
    train_loss: expect.any(Number),
  })
  const checkpoints = []
  for await (const one of client.fineTuning.jobs.checkpoints.list(job.id, { limit: 1 })) checkpoints.push(one)
  expect(checkpoints.length).toBe(2)
  const [last] = checkpoints
  expect(last!.fine_tuned_model_checkpoint).toBe(`${job.fine_tuned_model}:ckpt-step-${last!.step_number}`)
  expect(last!.metrics).toMatchObject({ train_loss: expect.any(Number), valid_loss: expect.any(Number) })
  const csv = await (await client.files.content(job.result_files[0]!)).text()
  const lines = csv.trim().split('\n')
  expect(lines[0]).toMatch(/^step,train_loss,valid_loss,/)
  expect(lines.at(-1)).toMatch(new RegExp(`^${last!.step_number},`))
  const found = await client.fineTuning.jobs.list({ metadata: { team: 'ropes' } })
  expect(found.data.map(({ id }) => id)).toEqual([job.id])
  expect((await client.fineTuning.jobs.list({ metadata: { team: 'none' } })).data).toEqual([])
}, 90_000)

test('a job by preferences runs, and its auto fields say what they came to', async () => {
  const { client } = service
  const { id } = await client.fineTuning.jobs.create({
    model: 'tiny',
    training_file: await upload(client, preferences(8)),
    method: { type: 'dpo', dpo: { hyperparameters: { n_epochs: 1, beta: 0.2 } } },
  })
  const job = await untilOver(id)
  expect([job.status, job.error]).toEqual(['succeeded', null])
  expect(job.method).toMatchObject({
    type: 'dpo',
    dpo: { hyperparameters: { n_epochs: 1, beta: 0.2, batch_size: 1 } },
  })
}, 90_000)

test('a file that is wrong in a line fails the job with that line and what to do', async () => {
  const { client } = service
  const broken = `${chats(3)}{"messages": [{"role": "user", "content": "no answer"}]}\n`
  const { id } = await client.fineTuning.jobs.create({
    model: 'tiny',
    training_file: await upload(client, broken),
  })
  const job = await untilOver(id)
  expect(job).toMatchObject({ status: 'failed', fine_tuned_model: null })
  expect(job.error).toMatchObject({ code: 'invalid_training_file', param: 'training_file' })
  expect(job.error!.message).toMatch(/chats\.jsonl:4: /)
  const other = await client.fineTuning.jobs.create({
    model: 'tiny',
    training_file: await upload(client, chats(3)),
    method: { type: 'dpo' },
  })
  expect((await untilOver(other.id)).error).toMatchObject({ code: 'invalid_training_file' })
}, 90_000)

test('a job is paused with its step saved, goes on, and is cancelled', async () => {
  const { client } = service
  const hyperparameters = { n_epochs: 50, batch_size: 1 } as const
  const { id } = await client.fineTuning.jobs.create({
    model: 'tiny',
    training_file: await upload(client, chats(40)),
    method: { type: 'supervised', supervised: { hyperparameters } },
  })
  const status = async () => (await client.fineTuning.jobs.retrieve(id)).status
  const count = async () => (await client.fineTuning.jobs.checkpoints.list(id)).data.length
  await expect.poll(count, { timeout: 60_000 }).toBeGreaterThan(0)
  expect(await status()).toBe('running')
  expect((await client.fineTuning.jobs.pause(id)).status).toBe('paused')
  expect((await client.fineTuning.jobs.resume(id)).status).not.toBe('paused')
  await expect.poll(status, { timeout: 30_000 }).toBe('running')
  expect((await client.fineTuning.jobs.cancel(id)).status).toBe('cancelled')
  const job = await untilOver(id)
  expect([job.status, job.fine_tuned_model]).toEqual(['cancelled', null])
  const messages = (await client.fineTuning.jobs.listEvents(id, { limit: 100 })).data.map(
    ({ message }) => message,
  )
  expect(messages).toContain('Fine-tuning job resumes.')
  expect(await refusal(client.fineTuning.jobs.pause(id))).toMatchObject({
    status: 400,
    code: 'invalid_state',
  })
}, 120_000)
