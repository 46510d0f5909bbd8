import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { UserError } from '../../src/base/errors.ts'
import { createLogger } from '../../src/base/log.ts'
import { collectorOf } from '../../src/cli/collecting.ts'
import type { JobFolders } from '../../src/control/jobs/folders.ts'
import { listCheckpoints, newestWhole } from '../../src/control/jobs/output-checkpoints.ts'
import type { JobRow } from '../../src/control/jobs/rows.ts'
import { Checkpoints } from '../../src/control/models/checkpoints.ts'
import { bringNewest, collectCheckpoints } from '../../src/control/models/collect.ts'
import { lineageOf } from '../../src/control/models/lineage.ts'
import { modelsMigration } from '../../src/control/models/migration.ts'
import { Models } from '../../src/control/models/models.ts'
import { provide, referencesIn } from '../../src/control/models/provide.ts'
import { Retention } from '../../src/control/models/retention.ts'
import { dataMigrations, opened, small, upload } from '../datasets/harness.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { InjectedFault } from '../store/faults.ts'

async function run(databases: TestDatabases) {
  const base = await opened(databases, [...dataMigrations, modelsMigration])
  const credential = () => Promise.reject(new UserError('There is no such credential.'))
  const checkpoints = new Checkpoints(
    base.blobs,
    { folders: [], credential, clock: base.clock },
    async () => [],
  )
  const models = new Models(checkpoints)
  const output = join(base.folder, 'output')
  const workspace = join(base.folder, 'workspace')
  mkdirSync(workspace)
  /** A checkpoint as a job leaves it; `damage` writes other bytes than the manifest says. */
  const leave = (step: number, damage = false) => {
    const folder = join(output, 'checkpoints', `step-${String(step).padStart(6, '0')}`)
    mkdirSync(folder, { recursive: true })
    const weights = small(step)
    const sha256 = createHash('sha256').update(weights).digest('hex')
    writeFileSync(join(folder, 'model.safetensors'), damage ? Buffer.from(weights).fill(0) : weights)
    const files = { 'model.safetensors': { bytes: weights.length, sha256 } }
    writeFileSync(join(folder, 'ropeway.json'), JSON.stringify({ files }))
    return folder
  }
  /** As our trainer leaves one, that had its best evaluation behind step `best`. */
  const leaveTrained = (step: number, best?: number) => {
    const folder = leave(step)
    const { files } = JSON.parse(readFileSync(join(folder, 'ropeway.json'), 'utf8'))
    writeFileSync(
      join(folder, 'trainer.json'),
      JSON.stringify({ files, ...(best !== undefined && { best: { step: best, loss: 1 } }) }),
    )
    rmSync(join(folder, 'ropeway.json'))
  }
  const skipped: string[] = []
  const collect = (job = 'job_1', metrics = {}) =>
    collectCheckpoints(
      base.blobs,
      checkpoints,
      { project: 'p', job: { id: job, name: 'train' }, output, metrics, processes: 2 },
      (_, reason) => skipped.push(reason),
    )
  return Object.assign(base, {
    checkpoints,
    models,
    output,
    workspace,
    leave,
    leaveTrained,
    collect,
    skipped,
  })
}

onEveryDatabase((databases) => {
  test('what a job leaves becomes checkpoints once, with what it measured at the newest', async () => {
    await using it = await run(databases)
    it.leave(10)
    const newest = it.leave(20)
    const made = await it.collect('job_1', { loss: 0.5 })
    expect(
      made.map(({ name, status, spec }) => [name, status.metrics, spec.format, spec.layout.data]),
    ).toEqual([
      ['train-10', {}, 'training', 2],
      ['train-20', { loss: 0.5 }, 'training', 2],
    ])
    expect(await it.collect()).toEqual([])
    // They stay when the job's folder goes.
    rmSync(newest, { recursive: true })
    const row = await it.checkpoints.find('p', 'train@20')
    expect((await it.checkpoints.files(row)).map(({ path }) => path)).toEqual([
      'model.safetensors',
      'ropeway.json',
    ])
    const edges = await lineageOf(it.store, 'p', row.id)
    expect(edges.map(({ from, to }) => [from.label, to.label])).toEqual([
      ['job train', 'checkpoint train-20'],
    ])
  })

  test('a damaged checkpoint is left out and said, and the others are taken', async () => {
    await using it = await run(databases)
    it.leave(10, true)
    it.leave(20)
    expect((await it.collect()).map(({ step }) => step)).toEqual([20])
    expect(it.skipped).toEqual([expect.stringMatching(/model\.safetensors.*not the content/)])
  })

  test('of a job of our trainer stays what its file keeps and the best, and what somebody restores', async () => {
    await using it = await run(databases)
    const retention = new Retention(it.checkpoints)
    const collector = (file: object, kind = 'train') => {
      const row = { id: 'job_1', name: 'train', project_id: 'p', status: { metrics: {} } }
      const collect = collectorOf(
        { log: createLogger('test', 'silent') },
        { blobs: it.blobs, checkpoints: it.checkpoints, retention },
        { output: () => it.output } as unknown as JobFolders,
      )
      return () => collect({ ...row, spec: { kind, file, processes: 1 } } as unknown as JobRow)
    }
    const steps = async () => {
      const { rows } = await it.checkpoints.nouns.list({ project: 'p', limit: 50 })
      return rows.map(({ step }) => step).sort((a, b) => a - b)
    }
    for (const step of [10, 20, 30]) it.leaveTrained(step, 10)
    await collector({}, 'run')()
    expect(await steps()).toEqual([10, 20, 30])
    it.leaveTrained(40, 20)
    await collector({})()
    expect(await steps()).toEqual([20, 30, 40])
    it.leaveTrained(50)
    await collector({ checkpoint: { keep: 1 } })()
    expect(await steps()).toEqual([50])
    await it.checkpoints.restore('p', (await it.checkpoints.jobStep('job_1', 20))!.id)
    await collector({ checkpoint: { keep: 1 } })()
    expect(await steps()).toEqual([20, 50])
  })

  test('collecting that is cut at any call is finished by the next time', async () => {
    await using it = await run(databases)
    it.leave(10)
    for (const n of it.faults.each('unanswered')) {
      await it.collect(`job_${n}`).catch((error) => expect(error).toBeInstanceOf(InjectedFault))
      it.faults.disarm()
      await it.collect(`job_${n}`)
      expect((await it.checkpoints.jobStep(`job_${n}`, 10))?.files).toBe(2)
    }
  })

  test('an attempt on another machine goes on from the newest checkpoint that was collected, whole', async () => {
    await using it = await run(databases)
    it.leave(10)
    it.leave(20)
    await it.collect()
    const elsewhere = join(it.folder, 'elsewhere')
    await bringNewest(it.checkpoints, 'job_1', elsewhere)
    expect((await newestWhole(elsewhere, () => expect.unreachable()))?.step).toBe(20)
    // What the attempt itself has is newer.
    cpSync(it.leave(30), join(elsewhere, 'checkpoints', 'step-000030'), { recursive: true })
    await bringNewest(it.checkpoints, 'job_1', elsewhere)
    expect(listCheckpoints(elsewhere).map(({ step }) => step)).toEqual([20, 30])
    await bringNewest(it.checkpoints, 'job_2', join(it.folder, 'nowhere'))
    expect(existsSync(join(it.folder, 'nowhere'))).toBe(false)
  })

  test('a job finds the datasets and checkpoints that its file names in its workspace, and its lineage says so', async () => {
    await using it = await run(databases)
    const blob = await upload(it.blobs, 'p', small(1))
    const files = [{ path: 'inner/a.jsonl', blob }]
    const version = { files, keep: false, remove: [], message: '' }
    await it.datasets.addVersion('p', 'texts', version)
    const layout = { data: 1, tensor: 1, pipeline: 1, expert: 1 }
    await it.checkpoints.add('p', { name: 'base', step: 0, files, layout, description: '' })
    const file = { data: { train: 'dataset:texts/inner/a.jsonl' }, from: 'checkpoint:base', name: 'x' }
    const job = { id: 'job_9', label: 'job x' }
    await provide(it, 'p', job, file, it.workspace)
    expect(readFileSync(join(it.workspace, 'dataset:texts/inner/a.jsonl')).equals(small(1))).toBe(true)
    // A second attempt keeps what the first one found, and writing into the copy harms nobody.
    writeFileSync(join(it.workspace, 'dataset:texts/inner/a.jsonl'), 'mine')
    const other = await upload(it.blobs, 'p', small(2))
    await it.datasets.addVersion('p', 'texts', { ...version, files: [{ path: 'b', blob: other }] })
    await provide(it, 'p', job, file, it.workspace)
    expect(readdirSync(it.workspace).sort()).toEqual(['checkpoint:base', 'dataset:texts'])
    expect(existsSync(join(it.workspace, 'dataset:texts/b'))).toBe(false)
    await provide(it, 'p', job, { data: 'dataset:texts@1' }, it.workspace)
    expect(readFileSync(join(it.workspace, 'dataset:texts@1/inner/a.jsonl')).equals(small(1))).toBe(true)
    const edges = await lineageOf(it.store, 'p', 'job_9')
    expect(edges.map(({ from }) => from.label).sort()).toEqual(['checkpoint base', 'dataset texts@1'])
    await expect(provide(it, 'p', job, { data: 'dataset:none' }, it.workspace)).rejects.toThrow(/no dataset/)
    expect(readdirSync(it.workspace)).toHaveLength(3)
  })

  test('a job starts from a model by its name, a version or an alias, and stays with what its first attempt found', async () => {
    await using it = await run(databases)
    const layout = { data: 1, tensor: 1, pipeline: 1, expert: 1 }
    const promote = async (step: number, alias?: string) => {
      const files = [{ path: 'model.safetensors', blob: await upload(it.blobs, 'p', small(step)) }]
      const row = await it.checkpoints.add('p', { name: `c-${step}`, step, files, layout, description: '' })
      await it.models.promote('p', row, { model: 'stories', alias, message: '' })
    }
    const weights = (name: string) => readFileSync(join(it.workspace, name, 'model.safetensors'))
    const job = { id: 'job_9', label: 'job x' }
    const startFrom = (from: string) => provide(it, 'p', job, { model: { from }, name: 'x' }, it.workspace)
    await promote(1, 'prod')
    await promote(2)
    for (const name of ['model:stories', 'model:stories@1', 'model:stories:prod']) await startFrom(name)
    expect(weights('model:stories').equals(small(2))).toBe(true)
    expect(weights('model:stories@1').equals(small(1))).toBe(true)
    expect(weights('model:stories:prod').equals(small(1))).toBe(true)
    await promote(3, 'prod')
    await startFrom('model:stories:prod')
    expect(weights('model:stories:prod').equals(small(1))).toBe(true)
    const edges = await lineageOf(it.store, 'p', 'job_9')
    expect([...new Set(edges.map(({ from }) => from.label))].sort()).toEqual([
      'checkpoint c-1',
      'checkpoint c-2',
    ])
    await expect(startFrom('model:poems')).rejects.toThrow(/no model "poems"/)
    await expect(startFrom('model:stories:dev')).rejects.toThrow(UserError)
  })
})

test('references are found anywhere in a job file, each once, and nothing else is taken for one', () => {
  const file = {
    data: { train: ['dataset:a@3/x.jsonl', 'dataset:a@3'], eval: 'dataset:b' },
    from: 'checkpoint:c',
  }
  expect(referencesIn(file)).toEqual(['dataset:a@3', 'dataset:b', 'checkpoint:c'])
  const many = Array.from({ length: 101 }, (_, number) => `dataset:d${number}`)
  expect(referencesIn({ train: many.slice(1) })).toHaveLength(100)
  expect(() => referencesIn({ train: many })).toThrow(
    'names 101 datasets, checkpoints and models; at most 100',
  )
  expect(referencesIn({ run: 'echo dataset:a', x: 'dataset:../a', y: 'dataset:', z: './dataset:a' })).toEqual(
    [],
  )
  expect(referencesIn({ model: { from: 'model:c@2/x' }, environment: { TAG: 'model:c' } })).toEqual([
    'model:c@2',
  ])
})
