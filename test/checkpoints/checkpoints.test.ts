import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { formatOf } from '../../src/api/control/checkpoints.ts'
import { UserError } from '../../src/base/errors.ts'
import { bringFile } from '../../src/control/blobs/bring.ts'
import { sweepBlobs } from '../../src/control/blobs/sweep.ts'
import { Checkpoints } from '../../src/control/models/checkpoints.ts'
import { lineageOf, recordLineage } from '../../src/control/models/lineage.ts'
import { modelsMigration } from '../../src/control/models/migration.ts'
import { Models } from '../../src/control/models/models.ts'
import { dispensable, Retention } from '../../src/control/models/retention.ts'
import type { CheckpointRow } from '../../src/control/models/rows.ts'
import type { Use } from '../../src/control/models/uses.ts'
import { eventsOf } from '../../src/control/store/events.ts'
import { dataMigrations, large, opened, small, upload } from '../datasets/harness.ts'
import { hash, read } from '../objects/bytes.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { InjectedFault } from '../store/faults.ts'

const layout = { data: 1, tensor: 1, pipeline: 1, expert: 1 }
const day = 24 * 3_600_000

async function run(databases: TestDatabases) {
  const base = await opened(databases, [...dataMigrations, modelsMigration])
  const credential = () => Promise.reject(new UserError('There is no such credential.'))
  const uses: Use[] = []
  const places = { folders: [join(base.folder, 'linked')], credential, clock: base.clock }
  const checkpoints = new Checkpoints(base.blobs, places, async () => uses)
  const models = new Models(checkpoints)
  const retention = new Retention(checkpoints)
  const add = async (name: string, seed = 1) => {
    const blob = await upload(base.blobs, 'p', small(seed))
    const files = [{ path: 'model.safetensors', blob }]
    return await checkpoints.add('p', { name, step: 0, files, layout, description: '' })
  }
  /** A checkpoint as a job tells of it. */
  const written = async (job: string, step: number, loss = 1) => {
    const files = [{ path: 'trainer.json', blob: await upload(base.blobs, 'p', small(step)) }]
    const told = { job: { id: `job_${job}`, name: job }, step, files, layout, metrics: { loss } }
    return await checkpoints.ofJob('p', told)
  }
  return Object.assign(base, { checkpoints, models, retention, uses, add, written })
}

onEveryDatabase((databases) => {
  test('a checkpoint reads back as it was uploaded, and is found by name, prefix, and job@step', async () => {
    await using it = await run(databases)
    const row = await it.add('base')
    expect(row).toMatchObject({ spec: { format: 'safetensors', source: { kind: 'upload' } }, files: 1 })
    const [file] = await it.checkpoints.files(row)
    const { objects, key } = await it.checkpoints.placeOf(row, file!)
    expect(hash(await read((await objects.get(key))!))).toBe(hash(small(1)))
    await it.written('train', 10)
    await it.written('train', 200)
    expect((await it.checkpoints.find('p', 'ba')).id).toBe(row.id)
    expect((await it.checkpoints.find('p', 'train@10')).name).toBe('train-10')
    expect((await it.checkpoints.find('p', 'job_train@latest')).step).toBe(200)
    await expect(it.checkpoints.find('p', 'train@11')).rejects.toMatchObject({ failure: 'not_found' })
    await expect(it.checkpoints.find('p', 'train-')).rejects.toThrow(/Several checkpoints begin/)
    await expect(it.checkpoints.find('q', 'base')).rejects.toMatchObject({ failure: 'not_found' })
  })

  test('saying the same twice is one checkpoint; other content under the name is refused', async () => {
    await using it = await run(databases)
    expect((await it.add('base')).id).toBe((await it.add('base')).id)
    await expect(it.add('base', 2)).rejects.toThrow(/with other content/)
    expect((await it.written('train', 10))!.id).toBe((await it.written('train', 10))!.id)
  })

  test('jobs of one name have checkpoints of different names, and a deleted one does not come back', async () => {
    await using it = await run(databases)
    const first = await it.written('train', 10)
    const files = [{ path: 'a.gguf', blob: await upload(it.blobs, 'p', small(7)) }]
    const job = { id: 'job_another0123456', name: 'train' }
    const second = await it.checkpoints.ofJob('p', { job, step: 10, files, layout, metrics: {} })
    expect(second!.name).toBe('train-10-123456')
    await it.checkpoints.delete(first!)
    expect(await it.written('train', 10)).toBeUndefined()
    expect((await it.checkpoints.restore('p', first!.id)).name).toBe('train-10')
  })

  test('files that a job left on this machine are brought whole, and once', async () => {
    await using it = await run(databases)
    const path = join(it.folder, 'written.safetensors')
    writeFileSync(path, large)
    const blob = await bringFile(it.blobs, 'p', path)
    expect((await bringFile(it.blobs, 'p', path)).id).toBe(blob.id)
    expect(hash(await read((await it.objects.get(blob.key))!))).toBe(hash(large))
  })

  test('a linked checkpoint is read where it lies', async () => {
    await using it = await run(databases)
    const folder = join(it.folder, 'linked')
    mkdirSync(folder)
    writeFileSync(join(folder, 'm.gguf'), 'weights')
    const given = { name: 'there', step: 5, layout, description: '' }
    const row = await it.checkpoints.link('p', given, { url: pathToFileURL(folder).href })
    expect(row).toMatchObject({ bytes: 7, spec: { format: 'gguf' } })
    const [file] = await it.checkpoints.files(row)
    const { objects, key } = await it.checkpoints.placeOf(row, file!)
    expect((await read((await objects.get(key))!)).toString()).toBe('weights')
  })

  test('promotion makes numbered versions, and an alias moves to one and back again', async () => {
    await using it = await run(databases)
    const [a, b] = [await it.add('a', 1), await it.add('b', 2)]
    await it.models.promote('p', a, { model: 'chat', alias: 'prod', message: 'first' })
    const { release } = await it.models.promote('p', b, { model: 'chat', alias: 'prod', message: 'second' })
    expect(release.number).toBe(2)
    expect((await it.models.resolve('p', 'chat:prod')).checkpoint.name).toBe('b')
    expect((await it.models.resolve('p', 'chat@1')).checkpoint.name).toBe('a')
    await it.models.setAlias(await it.models.find('p', 'chat'), 'prod', 1)
    expect((await it.models.resolve('p', 'chat:prod')).checkpoint.name).toBe('a')
    // Again, as after a lost answer: no third version.
    const again = await it.checkpoints.find('p', 'b')
    expect((await it.models.promote('p', again, { model: 'chat', message: '' })).release.number).toBe(2)
    await expect(it.models.resolve('p', 'chat:staging')).rejects.toThrow(/no alias staging; it has: prod/)
    await expect(it.models.resolve('p', 'chat:constructor')).rejects.toThrow(/no alias constructor/)
    await expect(it.models.resolve('p', 'chat@9')).rejects.toThrow(/no version 9/)
    const model = await it.models.find('p', 'chat')
    await it.models.setAlias(model, 'constructor', undefined)
    await it.models.setAlias(await it.models.find('p', 'chat'), 'prod', undefined)
    const { rows } = await eventsOf(it.store, model.id, { limit: 10 })
    expect(rows.map(({ message }) => message)).toEqual([
      'It was created.',
      'Version 1 is a.',
      'prod is version 1 now.',
      'Version 2 is b.',
      'prod is version 2 now. It was version 1 before.',
      'prod is version 1 now. It was version 2 before.',
      'prod was taken away. It was version 1 before.',
    ])
  })

  test('what is a version of a model is not deleted, nor a model that is used; the rest is for a day', async () => {
    await using it = await run(databases)
    const [a, b] = [await it.add('a', 1), await it.add('b', 2)]
    const { model } = await it.models.promote('p', a, { model: 'chat', message: '' })
    await expect(it.checkpoints.delete(a)).rejects.toMatchObject({
      message: 'a is version 1 of the model chat.',
      fix: expect.stringContaining('ropeway model delete chat'),
    })
    it.uses.push({ by: 'the deployment chat', checkpoint: a.id, model: model.id })
    await expect(it.models.delete(model)).rejects.toThrow(/used by the deployment chat/)
    it.uses.length = 0
    await it.models.delete(model)
    const goneAt = new Date(it.clock.unixMs() + day).toISOString()
    await expect(it.checkpoints.delete(a)).rejects.toMatchObject({
      message: expect.stringContaining('the model chat, which was deleted'),
      fix: expect.stringContaining(goneAt.slice(0, 16).replace('T', ' ')),
    })
    await it.checkpoints.delete(b)
    await expect(it.models.promote('p', b, { model: 'chat', message: '' })).rejects.toThrow(
      /at the same time/,
    )
    it.clock.advance(day)
    expect([await it.models.purge(), await it.checkpoints.purge()]).toEqual([0, 0])
    it.clock.advance(1)
    expect([await it.models.purge(), await it.checkpoints.purge()]).toEqual([1, 1])
    await expect(it.models.restore('p', model.id)).rejects.toMatchObject({ failure: 'not_found' })
    await it.checkpoints.delete(await it.checkpoints.find('p', 'a'))
    it.clock.advance(day + 1)
    expect(await it.checkpoints.purge()).toBe(1)
    it.clock.advance(day + 1)
    expect(await sweepBlobs(it.blobs)).toBe(2)
    expect((await it.objects.list()).objects).toEqual([])
  })

  test('the way from data to a deployment is found from each of its stations', async () => {
    await using it = await run(databases)
    const data = { id: 'version_1', label: 'dataset texts@3' }
    const job = { id: 'job_train', label: 'job train' }
    await recordLineage(it.store, 'p', { from: data, to: job })
    const row = (await it.written('train', 10))!
    const { release } = await it.models.promote('p', row, { model: 'chat', message: '' })
    const served = { id: 'deployment_1', label: 'deployment chat' }
    const edge = { from: { id: release.id, label: 'model chat@1' }, to: served }
    await recordLineage(it.store, 'p', edge)
    await recordLineage(it.store, 'p', edge)
    const way = ['dataset texts@3', 'job train', 'checkpoint train-10', 'model chat@1', 'deployment chat']
    for (const id of [data.id, job.id, row.id, release.id, served.id]) {
      const edges = await lineageOf(it.store, 'p', id)
      expect(edges.map(({ from, to }) => [from.label, to.label])).toEqual(
        way.slice(1).map((label, index) => [way[index], label]),
      )
    }
    expect(await lineageOf(it.store, 'q', row.id)).toEqual([])
  })

  test('retention deletes what no rule keeps, never what a model names, and it can be restored for a day', async () => {
    await using it = await run(databases)
    const losses = { 100: 3, 200: 1, 300: 2, 400: 4, 500: 5 }
    for (const [step, loss] of Object.entries(losses)) await it.written('train', Number(step), loss)
    await it.written('other', 100)
    await it.written('other', 200)
    await it.models.promote('p', await it.checkpoints.find('p', 'train-100'), { model: 'chat', message: '' })
    await it.retention.set('p', 'best', {
      jobs: 'tr*',
      keep_last: 1,
      keep_best: { metric: 'loss' },
      keep_days: 1,
    })
    const names = async () => (await it.checkpoints.nouns.list({ limit: 50 })).rows.map(({ name }) => name)
    expect(await it.retention.sweep()).toBe(0)
    it.clock.advance(day)
    expect(await it.retention.sweep()).toBe(2)
    expect(await it.retention.sweep()).toBe(0)
    expect(await names()).toEqual(['train-100', 'train-200', 'train-500', 'other-100', 'other-200'])
    const gone = await it.checkpoints.jobStep('job_train', 300)
    const { rows } = await eventsOf(it.store, gone!.id, { limit: 9, descending: true })
    expect(rows[0]!.message).toBe('No rule keeps it (best). It can be restored for a day.')
    await it.checkpoints.restore('p', gone!.id)
    // A second rule only keeps more.
    await it.retention.set('p', 'hundreds', { jobs: 'train', keep_every: 300 })
    expect(await it.retention.sweep()).toBe(0)
    await it.retention.set('p', 'others', { jobs: 'other' })
    expect(await it.retention.sweep()).toBe(1)
  })

  test('a job keeps what its file says, where no rule speaks of it, and what a model names', async () => {
    await using it = await run(databases)
    const job = { id: 'job_train', name: 'train' }
    for (const step of [100, 200, 300, 400, 500]) await it.written('train', step)
    await it.written('other', 100)
    await it.models.promote('p', await it.checkpoints.find('p', 'train-100'), { model: 'chat', message: '' })
    const names = async () => (await it.checkpoints.nouns.list({ limit: 50 })).rows.map(({ name }) => name)
    await it.retention.set('p', 'all', { jobs: 'train', keep_last: 5 })
    expect(await it.retention.keepAsJobSays('p', job, { keep: 2, best: 200 })).toBe(0)
    await it.retention.nouns.purge((await it.retention.nouns.named('p', 'all'))!.id)
    expect(await it.retention.keepAsJobSays('p', job, { keep: 2, best: 200 })).toBe(1)
    expect(await names()).toEqual(['train-100', 'train-200', 'train-400', 'train-500', 'other-100'])
    const gone = await it.checkpoints.jobStep('job_train', 300)
    const { rows } = await eventsOf(it.store, gone!.id, { limit: 9, descending: true })
    expect(rows[0]!.message).toBe(
      'Its job keeps 2 and the best (checkpoint: keep). It can be restored for a day.',
    )
    expect(await it.retention.keepAsJobSays('p', job, { keep: 2, best: undefined })).toBe(1)
    expect(await names()).toEqual(['train-100', 'train-400', 'train-500', 'other-100'])
  })

  test('a promotion that is cut at any call is finished by saying it again, with one version', async () => {
    await using it = await run(databases)
    for (const n of it.faults.each('unanswered')) {
      it.faults.disarm()
      const row = await it.add(`c${n}`, n)
      it.faults.arm(n, 'unanswered')
      const promotion = { model: `m${n}`, alias: 'prod', message: '' }
      const first = it.models.promote('p', row, promotion)
      await first.catch((error) => expect(error).toBeInstanceOf(InjectedFault))
      it.faults.disarm()
      const again = await it.models.promote('p', await it.checkpoints.find('p', `c${n}`), promotion)
      expect(again.release.number).toBe(1)
      expect(again.model.status.aliases).toEqual({ prod: 1 })
    }
  })
})

test('a format is known by the names of the files', () => {
  expect(formatOf(['a/trainer.json', 'a/model.safetensors'])).toBe('training')
  expect(formatOf(['adapter_config.json', 'adapter_model.safetensors'])).toBe('adapter')
  expect(formatOf(['config.json', 'model-00001-of-2.safetensors'])).toBe('safetensors')
  expect(formatOf(['m.gguf'])).toBe('gguf')
  expect(formatOf(['weights.bin'])).toBe('other')
})

test('a rule keeps the newest, the multiples, the young and the best, and lets the rest go', () => {
  const rows = [10, 20, 30, 40, 50].map((step) => ({
    ...{ step, created_at: step * day, status: { metrics: { loss: step === 20 ? 0 : 9 } } },
  })) as unknown as CheckpointRow[]
  const steps = (rule: object) =>
    dispensable(rows, { jobs: '*', keep_last: 1, ...rule }, 51 * day).map(({ step }) => step)
  expect(steps({})).toEqual([40, 30, 20, 10])
  expect(steps({ keep_last: 2 })).toEqual([30, 20, 10])
  expect(steps({ keep_every: 20 })).toEqual([30, 10])
  expect(steps({ keep_days: 22 })).toEqual([20, 10])
  expect(steps({ keep_best: { metric: 'loss', mode: 'min', count: 1 } })).toEqual([40, 30, 10])
  for (const metric of ['other', 'constructor'])
    expect(steps({ keep_best: { metric, mode: 'max', count: 1 } })).toEqual([40, 30, 20, 10])
})
