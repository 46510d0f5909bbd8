/** Who may do what by OpenAI's API: roles and scopes, other projects, permissions for checkpoints; and the stream of events. */
import OpenAI, { APIError } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createKey, createOwnKey, revokeKey } from '../../src/api/control/keys.ts'
import { createProject } from '../../src/api/control/projects.ts'
import { addMember } from '../service/running.ts'
import { chats, type TuningService, tuningService, upload } from './harness.ts'

let service: TuningService
beforeAll(async () => {
  service = await tuningService()
})
afterAll(() => service[Symbol.asyncDispose](), 60_000)

/** Status and code of a refusal. */
async function refused(promise: Promise<unknown>): Promise<unknown[]> {
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(error).toBeInstanceOf(APIError)
  return [(error as APIError).status, (error as APIError).code]
}

const method = {
  type: 'supervised',
  supervised: { hyperparameters: { n_epochs: 1, batch_size: 8 } },
} as const

async function started(count = 8) {
  const { client } = service
  const training_file = await upload(client, chats(count))
  return await client.fineTuning.jobs.create({ model: 'tiny', training_file, method })
}

async function untilOver(id: string) {
  const { client } = service
  const status = async () => (await client.fineTuning.jobs.retrieve(id)).status
  await expect.poll(status, { interval: 100 }).toMatch(/succeeded|failed|cancelled/)
  return await client.fineTuning.jobs.retrieve(id)
}

async function otherProject(name: string): Promise<OpenAI> {
  const { owner, url } = service.bench.service
  await owner.call(createProject, { params: { organisation: 'main' }, body: { name, title: name } })
  const { key } = await owner.call(createKey, { params: { project: name }, body: { name: 'k' } })
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 })
}

test('events stream while the job runs, each once and in order, until it is over', async () => {
  const { client, bench } = service
  const { id } = await started(40)
  const response = await fetch(`${bench.service.url}/v1/fine_tuning/jobs/${id}/events?stream=true`, {
    headers: { authorization: `Bearer ${client.apiKey}` },
  })
  expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/)
  let text = ''
  let seenWhileRunning = 0
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece
    const { finished_at } = await client.fineTuning.jobs.retrieve(id)
    if (finished_at === null) seenWhileRunning = text.split('data: ').length - 1
  }
  expect(seenWhileRunning).toBeGreaterThan(1)
  const data = text.split('\n\n').flatMap((block) => (block.startsWith('data: ') ? [block.slice(6)] : []))
  expect(data.pop()).toBe('[DONE]')
  const listed = []
  for await (const event of client.fineTuning.jobs.listEvents(id)) listed.unshift(event)
  expect(data.map((one) => JSON.parse(one))).toEqual(listed)
  expect(listed.at(-1)!.message).toBe('The job has successfully completed')
  const after = await fetch(response.url, { headers: { authorization: `Bearer ${client.apiKey}` } })
  expect(await after.text()).toBe(text.replace(/: still here\n\n/g, ''))
})

test('the stream of events ends with the reason once the key that reads it is revoked', async () => {
  const { client, bench } = service
  const { owner, url } = bench.service
  const params = { project: 'default' }
  const training_file = await upload(client, chats(40))
  const long = { type: 'supervised', supervised: { hyperparameters: { n_epochs: 50 } } } as const
  const { id } = await client.fineTuning.jobs.create({ model: 'tiny', training_file, method: long })
  const reader = await owner.call(createKey, { params, body: { name: 'reader' } })
  const response = await fetch(`${url}/v1/fine_tuning/jobs/${id}/events?stream=true`, {
    headers: { authorization: `Bearer ${reader.key}` },
  })
  await owner.call(revokeKey, { params: { ...params, key: reader.id } })
  const last = (await response.text()).trim().split('\n\n').at(-1)!
  expect(JSON.parse(last.slice('data: '.length))).toMatchObject({ error: { code: 'invalid_api_key' } })
  await client.fineTuning.jobs.cancel(id)
})

test('who may only look cannot create or cancel, by role and by scope; what is another project’s is not there', async () => {
  const { client, bench } = service
  const { owner, url } = bench.service
  const job = await started()
  const guest = await addMember(bench.service, 'guest', 'guest')
  const own = await guest.call(createOwnKey, { body: { name: 'own' } })
  const looking = new OpenAI({ baseURL: `${url}/v1`, apiKey: own.key, project: 'default', maxRetries: 0 })
  const body = { name: 'narrow', scopes: ['job:view', 'dataset:view'] }
  const narrow = await owner.call(createKey, { params: { project: 'default' }, body })
  for (const viewer of [looking, client.withOptions({ apiKey: narrow.key })]) {
    expect((await viewer.fineTuning.jobs.retrieve(job.id)).id).toBe(job.id)
    const asked = { model: 'tiny', training_file: job.training_file, method }
    expect(await refused(viewer.fineTuning.jobs.create(asked))).toEqual([403, 'forbidden'])
    expect(await refused(viewer.fineTuning.jobs.cancel(job.id))).toEqual([403, 'forbidden'])
    expect(await refused(upload(viewer, chats(2)))).toEqual([403, 'forbidden'])
    expect(await refused(viewer.files.delete(job.training_file))).toEqual([403, 'forbidden'])
  }
  const stranger = await otherProject('strangers')
  const { jobs } = stranger.fineTuning
  const nothing = [404, 'fine_tune_not_found']
  for (const asked of [jobs.retrieve(job.id), jobs.cancel(job.id), jobs.pause(job.id), jobs.resume(job.id)])
    expect(await refused(asked)).toEqual(nothing)
  expect(await refused(jobs.listEvents(job.id).asResponse())).toEqual(nothing)
  expect(await refused(jobs.checkpoints.list(job.id).asResponse())).toEqual(nothing)
  expect(await refused(stranger.files.retrieve(job.training_file))).toEqual([404, 'file_not_found'])
  expect(await refused(jobs.create({ model: 'tiny', training_file: job.training_file }))).toEqual([
    404,
    'model_not_found',
  ])
  expect((await jobs.list()).data).toEqual([])
  expect((await stranger.files.list()).data).toEqual([])
  await untilOver(job.id)
})

test('a project that was given a checkpoint asks for it under its name, until the permission is deleted', async () => {
  const { client, bench } = service
  const { owner, url } = bench.service
  const model = (await untilOver((await started()).id)).fine_tuned_model!
  const friend = await otherProject('friends')
  const ask = () => friend.completions.create({ model, prompt: 'rope', max_tokens: 2 })
  expect(await refused(ask())).toEqual([404, 'model_not_found'])
  const { key } = await owner.call(createOwnKey, { body: { name: 'admin' } })
  const admin = new OpenAI({
    ...{ baseURL: `${url}/v1`, apiKey: 'unused', adminAPIKey: key, project: 'default', maxRetries: 0 },
  })
  const { permissions } = admin.fineTuning.checkpoints
  const made = (await permissions.create(model, { project_ids: ['friends'] })).data
  expect(made).toMatchObject([
    { object: 'checkpoint.permission', project_id: expect.stringMatching(/^project/) },
  ])
  expect((await permissions.create(model, { project_ids: ['friends'] })).data).toEqual(made)
  expect((await permissions.list(model)).data).toEqual(made)
  // A name that was refused is asked for again after a second.
  await expect.poll(() => ask().then((answer) => answer.model, String)).toBe(model)
  expect((await friend.models.list()).data.map(({ id }) => id)).toContain(model)
  // To ask for it is all: the job and its file stay what they were.
  expect((await friend.fineTuning.jobs.list()).data).toEqual([])
  const wrong = permissions.create(model, { project_ids: ['nobody'] })
  expect(await refused(wrong)).toEqual([404, 'not_found'])
  expect(await refused(permissions.list('ft:tiny:main::none').asResponse())).toEqual([404, 'model_not_found'])
  const mine = client.withOptions({ adminAPIKey: client.apiKey }).fineTuning.checkpoints.permissions
  // A key of one project sees no other.
  expect(await refused(mine.create(model, { project_ids: ['friends'] }).asResponse())).toEqual([
    404,
    'not_found',
  ])
  const { id } = made[0]!
  expect(await permissions.delete(id, { fine_tuned_model_checkpoint: model })).toMatchObject({
    id,
    deleted: true,
  })
  await expect.poll(() => refused(ask()).catch(() => [])).toEqual([404, 'model_not_found'])
  expect((await permissions.list(model)).data).toEqual([])
})
