/** Cancel, pause and resume in every state of a fine-tuning job, asked by OpenAI's own client. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { APIError } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { dataOf, jobRoom } from '../../src/cli/service-parts.ts'
import { keepPoints } from '../../src/control/jobs/reports.ts'
import { type JobRow, jobNouns } from '../../src/control/jobs/rows.ts'
import type { JobState } from '../../src/control/jobs/states.ts'
import { moveJob } from '../../src/control/jobs/transition.ts'
import { TuningFiles } from '../../src/control/tuning/files.ts'
import { carryOn, type Planned, type TuningLoopOptions } from '../../src/control/tuning/loop.ts'
import { metricsAt } from '../../src/control/tuning/metrics.ts'
import { jobIdOf, ownId } from '../../src/control/tuning/rows.ts'
import { Tunings } from '../../src/control/tuning/tunings.ts'
import { planFineTuning } from '../../src/train/fine-tuning-plan.ts'
import { chats, type TuningService, tuningService, upload } from './harness.ts'

let service: TuningService
let options: TuningLoopOptions
let file: string
/** Happens while the files of a job are read. */
let meanwhile: (() => Promise<unknown>) | undefined
/** What is planned instead. */
let changed: ((plan: Planned) => Planned) | undefined

beforeAll(async () => {
  service = await tuningService(false)
  const { parts } = service.bench
  const { context, folder } = parts
  const data = dataOf(parts)
  const { jobs, folders } = jobRoom(parts)
  const { checkpoints, models, blobs, datasets } = data
  const files = new TuningFiles(blobs, datasets, join(folder, 'incoming'))
  const tunings = new Tunings({
    ...{ models, files, jobs },
    checkWandb: async () => undefined,
    wake: () => undefined,
  })
  options = {
    ...{ tunings, files, jobs, folders, checkpoints },
    providing: { ...data, store: context.store },
    log: context.log,
    plan: async (request, workspace) => {
      await meanwhile?.()
      const plan = await planFineTuning(request, workspace)
      return changed === undefined ? plan : changed(plan)
    },
    collect: async () => undefined,
  }
  file = await upload(service.client, chats(4))
})
afterAll(() => service[Symbol.asyncDispose]())

const look = () => carryOn(options, 'test')
const nouns = () => jobNouns(options.tunings.nouns.store)
const jobOf = async (id: string) => await nouns().get(jobIdOf(ownId(id)))
const verbs = () => service.client.fineTuning.jobs

async function create(validation?: string): Promise<string> {
  const hyperparameters = { n_epochs: 1, batch_size: 4 } as const
  const made = await verbs().create({
    ...{ model: 'tiny', training_file: file, ...(validation && { validation_file: validation }) },
    method: { type: 'supervised', supervised: { hyperparameters } },
  })
  return made.id
}

/** What the jobs' own loop would do. */
async function move(id: string, ...states: JobState[]): Promise<void> {
  for (const to of states) {
    const row = (await jobOf(id))!
    const isGiven = to === 'allocating'
    const given: Partial<JobRow> = isGiven ? { run_id: `${row.id}-1`, attempt: 1, cluster: 'local' } : {}
    await moveJob(nouns(), row, { to, reason: 'queued', message: to, row: given })
  }
}

/** A job that was asked to stop does so, and both loops look again. */
async function settle(id: string): Promise<void> {
  for (let turn = 0; turn < 3; turn++) {
    await look()
    const job = await jobOf(id)
    if (job?.stop_requested === 1) await move(id, 'stopping', 'stopped')
  }
}

const states = {
  validating: async () => undefined,
  queued: look,
  running: async (id) => {
    await look()
    await move(id, 'allocating', 'preparing', 'running')
  },
  pausing: async (id) => {
    await states.running(id)
    await verbs().pause(id)
  },
  paused: async (id) => {
    await states.pausing(id)
    await settle(id)
  },
  cancelling: async (id) => {
    await states.running(id)
    await verbs().cancel(id)
  },
  cancelled: async (id) => {
    await states.cancelling(id)
    await settle(id)
  },
  succeeded: async (id) => {
    await states.running(id)
    await move(id, 'success')
    await look()
  },
  failed: async (id) => {
    await states.running(id)
    await move(id, 'failed')
    await look()
  },
} as const satisfies Record<string, (id: string) => Promise<unknown>>

const refused = 400
/** What each verb comes to: the status that is shown at once, and the one that stays. */
const outcomes: Record<keyof typeof states, Record<'cancel' | 'pause' | 'resume', string[] | 400>> = {
  validating: { cancel: ['cancelled', 'cancelled'], pause: refused, resume: refused },
  queued: { cancel: ['cancelled', 'cancelled'], pause: ['paused', 'paused'], resume: refused },
  running: { cancel: ['cancelled', 'cancelled'], pause: ['paused', 'paused'], resume: refused },
  // It is begun again as soon as it has saved.
  pausing: { cancel: ['cancelled', 'cancelled'], pause: ['paused', 'paused'], resume: ['running', 'queued'] },
  paused: { cancel: ['cancelled', 'cancelled'], pause: ['paused', 'paused'], resume: ['queued', 'queued'] },
  cancelling: { cancel: ['cancelled', 'cancelled'], pause: refused, resume: refused },
  cancelled: { cancel: refused, pause: refused, resume: refused },
  succeeded: { cancel: refused, pause: refused, resume: refused },
  failed: { cancel: refused, pause: refused, resume: refused },
}

for (const [state, expected] of Object.entries(outcomes) as [
  keyof typeof states,
  (typeof outcomes)['queued'],
][])
  test(`a job that is ${state} is cancelled, paused and resumed, or says why not`, async () => {
    for (const verb of ['cancel', 'pause', 'resume'] as const) {
      const id = await create()
      await states[state](id)
      const before = (await verbs().retrieve(id)).status
      const outcome = expected[verb]
      const answer = await verbs()
        [verb](id)
        .then(
          ({ status }) => status,
          (error: unknown) => error,
        )
      if (outcome === refused) {
        expect(answer, verb).toBeInstanceOf(APIError)
        expect(answer).toMatchObject({ status: 400, code: 'invalid_state', type: 'invalid_request_error' })
        expect((answer as APIError).message).toMatch(/ftjob-\w+ cannot be \w+: it is/)
        expect((await verbs().retrieve(id)).status).toBe(before)
        await verbs()
          .cancel(id)
          .catch(() => undefined)
        await settle(id)
        continue
      }
      expect(answer, verb).toBe(outcome[0])
      await settle(id)
      const shown = await verbs().retrieve(id)
      expect([verb, shown.status]).toEqual([verb, outcome[1]])
      expect(shown.finished_at === null).toBe(outcome[1] !== 'cancelled')
      if (outcome[1] !== 'queued') expect((await jobOf(id))?.state ?? 'stopped').toBe('stopped')
      await verbs()
        .cancel(id)
        .catch(() => undefined)
      await settle(id)
    }
  })

test('a job that is cancelled while its files are read never trains, and leaves nothing', async () => {
  const id = await create()
  meanwhile = () => verbs().cancel(id)
  await look()
  meanwhile = undefined
  expect(await jobOf(id)).toBeUndefined()
  await look()
  expect(await verbs().retrieve(id)).toMatchObject({ status: 'cancelled', error: null })
  expect(await jobOf(id)).toBeUndefined()
  expect(existsSync(options.folders.workspace(jobIdOf(ownId(id))))).toBe(false)
})

test('a job that came to be while it was cancelled is stopped', async () => {
  const id = await create()
  await states.running(id)
  // Whoever cancelled looked before there was a job, and wrote after it.
  await options.tunings.nouns.change(ownId(id), ({ status }) => ({
    status: { ...status, wish: 'cancelled' },
  }))
  await settle(id)
  expect([(await jobOf(id))!.state, (await verbs().retrieve(id)).status]).toEqual(['stopped', 'cancelled'])
})

test('a plan that quotes a zero byte fails its job once, with the line that was wrong', async () => {
  const id = await create()
  changed = () => ({ ok: false, which: 'training', message: 'chats.jsonl:1: "PK\0" is no JSON.' })
  await look()
  changed = undefined
  expect(await verbs().retrieve(id)).toMatchObject({
    ...{ status: 'failed', error: { code: 'invalid_training_file' } },
  })
  const { data } = await verbs().listEvents(id)
  expect(data[0]!.message).toBe('The job failed: chats.jsonl:1: "PK\ufffd" is no JSON.')
})

test('a plan that could never become a job fails its fine-tuning, and leaves nothing', async () => {
  const id = await create()
  changed = (plan) => (plan.ok ? { ...plan, file: { ...plan.file, name: 'a\0b' } } : plan)
  await look()
  changed = undefined
  const shown = await verbs().retrieve(id)
  expect(shown).toMatchObject({ status: 'failed', error: { code: 'job_refused' } })
  expect(await jobOf(id)).toBeUndefined()
  expect(existsSync(options.folders.workspace(jobIdOf(ownId(id))))).toBe(false)
})

test('a failure is about the file that it names, by the name that it was uploaded with', async () => {
  const held = await upload(service.client, chats(2), 'held.jsonl')
  const gone = await upload(service.client, chats(2), 'gone.jsonl')
  const id = await create(held)
  const early = await create(gone)
  await service.client.files.delete(gone)
  await states.running(id)
  const job = (await jobOf(id))!
  const place = join(options.folders.workspace(job.id), `dataset:${held}`, 'held.jsonl')
  await moveJob(nouns(), job, { to: 'failed', reason: 'cannot_succeed', message: `${place}:2: it is cut.` })
  await look()
  expect((await verbs().retrieve(id)).error).toEqual({
    ...{ code: 'invalid_validation_file', param: 'validation_file', message: 'held.jsonl:2: it is cut.' },
  })
  expect((await verbs().retrieve(early)).error).toMatchObject({ code: 'invalid_validation_file' })
})

/** What is told of steps, by step. */
async function metricsTold(id: string): Promise<Record<string, unknown>[]> {
  const told: Record<string, unknown>[] = []
  for await (const { type, data } of verbs().listEvents(id, { limit: 100 }))
    if (type === 'metrics') told.unshift(data as Record<string, unknown>)
  return told
}

async function report(id: string, step: number, values: Record<string, number>): Promise<void> {
  const points = Object.entries(values).map(([name, value]) => ({ name, step, at: 1, value }))
  await keepPoints(nouns().store, jobIdOf(ownId(id)), points)
}

test('a step is told with what was evaluated after it, and the last one when the job is over', async () => {
  const id = await create()
  await states.running(id)
  await report(id, 1, { loss: 3 })
  await look()
  await report(id, 1, { held_out_loss: 4 })
  await look()
  expect(await metricsTold(id)).toEqual([])
  await report(id, 2, { loss: 2 })
  await look()
  expect(await metricsTold(id)).toMatchObject([{ step: 1, train_loss: 3, valid_loss: 4 }])
  await move(id, 'success')
  await look()
  expect(await metricsTold(id)).toMatchObject([{ step: 1 }, { step: 2, train_loss: 2 }])
})

test('steps of many metrics are told whole, all of them before the end', async () => {
  const id = await create()
  await states.running(id)
  const names = Array.from({ length: 13 }, (_, i) => [`a${i}`, i] as const)
  for (let step = 1; step <= 150; step++) await report(id, step, Object.fromEntries(names))
  await move(id, 'success')
  for (let turn = 0; turn < 3; turn++) await look()
  expect((await verbs().retrieve(id)).status).toBe('succeeded')
  const told = await metricsTold(id)
  expect(told.map(({ step }) => step)).toEqual(Array.from({ length: 150 }, (_, i) => i + 1))
  // Beside `step` and `total_steps`.
  expect(new Set(told.map((data) => Object.keys(data).length))).toEqual(new Set([names.length + 2]))
})

test('a page behind what is not there is refused, wherever pages are asked for', async () => {
  const { client } = service
  const id = await create()
  const after = 'zzz'
  const asked = [
    verbs().list({ after }),
    verbs().listEvents(id, { after }),
    verbs().checkpoints.list(id, { after }),
    client.files.list({ after }),
  ]
  for (const promise of asked)
    await expect(promise).rejects.toMatchObject({ status: 400, param: 'after', code: 'invalid_value' })
  const [newest] = (await verbs().listEvents(id, { limit: 1 })).data
  expect((await verbs().listEvents(id, { after: newest!.id })).data.length).toBeGreaterThan(0)
  expect((await verbs().list({ after: id })).data.map((one) => one.id)).not.toContain(id)
  await verbs().cancel(id)
})

test('a checkpoint has the numbers of its own step, and none of an earlier one', async () => {
  const id = await create()
  await report(id, 3, { loss: 3, reward: 1 })
  await report(id, 4, { held_out_loss: 4 })
  const at = (step: number) => metricsAt(nouns().store, jobIdOf(ownId(id)), step)
  expect(await at(3)).toEqual({ train_loss: 3, train_mean_reward: 1 })
  expect(await at(4)).toEqual({ valid_loss: 4, full_valid_loss: 4 })
  await verbs().cancel(id)
})
