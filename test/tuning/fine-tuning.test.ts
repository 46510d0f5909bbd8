/** OpenAI's own client drives files and fine-tuning on a service whose jobs really train. */
import { APIError } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { dataOf, jobRoom as roomOf } from '../../src/cli/service-parts.ts'
import { chats, preferences, type TuningService, tuningService, upload } from './harness.ts'

let service: TuningService
beforeAll(async () => {
  service = await tuningService()
})
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
    .poll(async () => (await client.fineTuning.jobs.retrieve(id)).finished_at, { interval: 200 })
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
  const hyperparameters = { n_epochs: '3' }
  const supervised = { type: 'supervised', supervised: { hyperparameters } }
  expect(await refusal(create({ model: 'tiny', training_file: second, method: supervised }))).toMatchObject({
    ...{ status: 400, param: 'method.supervised.hyperparameters.n_epochs' },
    message: expect.stringContaining('expected "auto" or a whole number from 1 to 50'),
  })
  expect(
    await refusal(
      create({
        ...{ model: 'tiny', training_file: second },
        ...{ method: { type: 'supervised' }, hyperparameters: { n_epochs: 3 } },
      }),
    ),
  ).toMatchObject({
    status: 400,
    param: 'hyperparameters',
    message: expect.stringContaining('within method'),
  })
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
})

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
})

test('a reinforcement job learns from graded answers, and tells what they were worth', async () => {
  const { client } = service
  const items = (count: number) =>
    Array.from({ length: count }, (_, i) =>
      JSON.stringify({ messages: [{ role: 'user', content: `the rope ${i}` }], letter: 'o' }),
    ).join('\n')
  const check = {
    ...{ type: 'string_check', name: 'has the letter', operation: 'like' },
    ...{ input: '{{ sample.output_text }}', reference: '{{ item.letter }}' },
  } as const
  const grader = {
    ...{ type: 'multi', name: 'both', calculate_output: '0.75 * right + alike / 4' },
    graders: {
      right: check,
      alike: { ...check, type: 'text_similarity', evaluation_metric: 'fuzzy_match', operation: undefined },
    },
  }
  const hyperparameters = { n_epochs: 1, batch_size: 2, compute_multiplier: 0.5 }
  const create = (grader: object) =>
    client.fineTuning.jobs.create({
      ...{ model: 'tiny', training_file: training, validation_file: validation },
      method: { type: 'reinforcement', reinforcement: { grader, hyperparameters } },
    } as never)
  const [training, validation] = [await upload(client, items(4)), await upload(client, items(2))]
  const job = await untilOver((await create(grader)).id)
  expect([job.status, job.error]).toEqual(['succeeded', null])
  expect(job.method).toMatchObject({
    ...{ type: 'reinforcement', reinforcement: { grader: { type: 'multi' }, hyperparameters } },
  })
  const csv = await (await client.files.content(job.result_files[0]!)).text()
  const [head, ...lines] = csv
    .trim()
    .split('\n')
    .map((line) => line.split(','))
  const last = Object.fromEntries(head!.map((name, i) => [name, lines.at(-1)![i]!]))
  for (const name of ['train_mean_reward', 'valid_mean_reward']) {
    expect(last[name]).not.toBe('')
    expect(Number(last[name])).toBeGreaterThanOrEqual(0)
    expect(Number(last[name])).toBeLessThanOrEqual(1)
  }
  const formula = 'max(right, alike)'
  expect(await refusal(create({ ...grader, calculate_output: formula }))).toMatchObject({
    ...{ status: 400, param: 'method.reinforcement.grader.calculate_output' },
  })
  const missing = await untilOver((await create({ ...check, reference: '{{ item.answer }}' })).id)
  expect(missing.error).toMatchObject({ code: 'invalid_training_file', param: 'training_file' })
  expect(missing.error!.message).toMatch(/chats\.jsonl:1: it has no item\.answer/)
})

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
})

test('a job is paused, goes on to the very same weights, and another is cancelled', async () => {
  const { client, bench } = service
  // So much that neither is over before somebody has looked; both are cancelled.
  const training_file = await upload(client, chats(400))
  const hyperparameters = { n_epochs: 50, batch_size: 1 } as const
  const create = (hyperparameters: object) =>
    client.fineTuning.jobs.create({
      ...{ model: 'tiny', training_file, seed: 5 },
      method: { type: 'supervised', supervised: { hyperparameters } },
    })
  const { id } = await create(hyperparameters)
  const stepsOf = async (job: string) =>
    (await client.fineTuning.jobs.checkpoints.list(job, { limit: 100 })).data.map((one) => one.step_number)
  await expect.poll(async () => (await stepsOf(id)).length).toBeGreaterThan(0)
  expect((await client.fineTuning.jobs.pause(id)).status).toBe('paused')
  const job = id.replace('ftjob-', 'job_')
  const { jobs } = roomOf(bench.parts)
  await expect.poll(async () => (await jobs.find(service.project, job)).state).toBe('stopped')
  const reached = (await jobs.find(service.project, job)).status.checkpointStep
  expect((await client.fineTuning.jobs.resume(id)).status).not.toBe('paused')
  await expect.poll(async () => Math.max(...(await stepsOf(id)))).toBeGreaterThan(reached)
  const last = Math.max(...(await stepsOf(id)))
  expect((await client.fineTuning.jobs.cancel(id)).status).toBe('cancelled')
  const cancelled = await untilOver(id)
  expect([cancelled.status, cancelled.fine_tuned_model]).toEqual(['cancelled', null])
  expect(await refusal(client.fineTuning.jobs.pause(id))).toMatchObject({
    status: 400,
    code: 'invalid_state',
  })

  const straight = await create(hyperparameters)
  await expect.poll(async () => await stepsOf(straight.id)).toContain(last)
  const weights = async (tuning: string) => {
    const { checkpoints } = dataOf(bench.parts)
    const row = (await checkpoints.jobStep(tuning.replace('ftjob-', 'job_'), last))!
    const files = (await checkpoints.files(row)).filter(({ path }) => path.endsWith('.safetensors'))
    return files.map(({ path, digest }) => [path, digest])
  }
  expect(await weights(id)).toEqual(await weights(straight.id))
  await client.fineTuning.jobs.cancel(straight.id)
  await untilOver(straight.id)
})
