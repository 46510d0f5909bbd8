import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import { deploymentInput, deploymentUpdate } from '../../src/api/control/deployments.ts'
import { UserError } from '../../src/base/errors.ts'
import { Deployments, viewOf } from '../../src/control/deployments/deployments.ts'
import { deploymentMigrations } from '../../src/control/deployments/migration.ts'
import { Publications } from '../../src/control/deployments/publications.ts'
import { ModelSources } from '../../src/control/deployments/sources.ts'
import { checkpointsUsedOn, usesOfDeployments } from '../../src/control/deployments/uses.ts'
import { Checkpoints } from '../../src/control/models/checkpoints.ts'
import { lineageOf } from '../../src/control/models/lineage.ts'
import { modelsMigration } from '../../src/control/models/migration.ts'
import { ModelFolders } from '../../src/control/models/model-folders.ts'
import { Models } from '../../src/control/models/models.ts'
import { Retention } from '../../src/control/models/retention.ts'
import { dataMigrations, opened, small, upload } from '../datasets/harness.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'

const layout = { data: 1, tensor: 1, pipeline: 1, expert: 1 }

async function run(databases: TestDatabases) {
  const base = await opened(databases, [...dataMigrations, modelsMigration, ...deploymentMigrations])
  const credential = () => Promise.reject(new UserError('There is no such credential.'))
  const linked = join(base.folder, 'linked')
  const places = { folders: [linked], credential, clock: base.clock }
  const checkpoints = new Checkpoints(base.blobs, places, usesOfDeployments(base.store))
  const models = new Models(checkpoints)
  const sources = new ModelSources(models, checkpoints, (name) =>
    name === 'own' ? undefined : `There is no model '${name}' in the models folder.`,
  )
  const deployments = new Deployments(base.store, 'local', sources, () => undefined)
  const cache = join(base.folder, 'cache')
  const folders = new ModelFolders(checkpoints, cache, pino({ level: 'silent' }))
  const filesOf = async (project: string, names: readonly string[], seed: number) =>
    await Promise.all(
      names.map(async (path, index) => ({
        path,
        blob: await upload(base.blobs, project, small(seed * 10 + index)),
      })),
    )
  const model = ['config.json', 'model.safetensors', 'optimizer.safetensors']
  const add = async (name: string, seed: number, { project = 'p', names = model } = {}) =>
    await checkpoints.add(project, {
      ...{ name, step: 0, layout, description: '' },
      files: await filesOf(project, names, seed),
    })
  const promoted = async (name: string, checkpoint: Awaited<ReturnType<typeof add>>, alias?: string) =>
    await models.promote(checkpoint.project_id, checkpoint, { model: name, alias, message: '' })
  const create = (version: object, project = 'p') =>
    deployments.create(project, deploymentInput.parse({ name: 'chat', version }))
  const update = (id: string, version: object) => deployments.update(id, deploymentUpdate.parse({ version }))
  /** Once it is not on its way any more. */
  const located = async (checkpoint: string) => {
    const first = await folders.locate(checkpoint)
    if (first.ok || first.later !== true) return first
    await folders.idle()
    return await folders.locate(checkpoint)
  }
  return Object.assign(base, {
    ...{ checkpoints, models, deployments, folders, cache, linked },
    ...{ add, promoted, create, update, located, filesOf },
  })
}

onEveryDatabase((databases) => {
  test('a version stays what its name meant when it was made; the name of a newer one makes a new version', async () => {
    await using it = await run(databases)
    const [a, b] = [await it.add('a', 1), await it.add('b', 2)]
    await it.promoted('stories', a, 'prod')
    const made = await it.create({ model: 'stories:prod' })
    await it.promoted('stories', b, 'prod')
    expect(viewOf((await it.deployments.nouns.get(made.id))!, 'p', null).versions).toMatchObject([
      { model: 'stories:prod', made_of: { 'stories:prod': 'model stories@1' } },
    ])
    const second = await it.update(made.id, { model: 'stories:prod' })
    expect([second.spec.target, second.spec.versions[1]!.sources]).toMatchObject([
      'v2',
      { 'stories:prod': { checkpoint: b.id } },
    ])
    expect((await it.update(made.id, { model: 'stories:prod' })).spec.target).toBe('v2')
    const edges = await lineageOf(it.store, 'p', made.id)
    expect(edges.map(({ from, to }) => `${from.label} -> ${to.label}`).sort()).toEqual([
      'checkpoint a -> model stories@1',
      'checkpoint b -> model stories@2',
      'model stories@1 -> deployment chat',
      'model stories@2 -> deployment chat',
    ])
  })

  test('checkpoints and adapters can be named themselves, and what cannot be served so is refused', async () => {
    await using it = await run(databases)
    const base = await it.add('base', 1)
    await it.add('poet', 2, { names: ['adapter_config.json', 'adapter_model.safetensors', 'trainer.json'] })
    await it.add('notes', 3, { names: ['notes.txt'] })
    const made = await it.create({ model: base.id, adapters: { poet: 'checkpoint:poet' } })
    expect(Object.keys(made.spec.versions[0]!.sources!)).toEqual([base.id, 'checkpoint:poet'])
    await expect(it.update(made.id, { model: 'checkpoint:poet' })).rejects.toThrow(
      /is an adapter and no model/,
    )
    await expect(
      it.update(made.id, { model: 'checkpoint:base', adapters: { x: 'checkpoint:base' } }),
    ).rejects.toThrow(/is a model and no adapter/)
    await expect(it.update(made.id, { model: 'checkpoint:notes' })).rejects.toThrow(/neither a config.json/)
    await expect(it.update(made.id, { model: 'own' })).rejects.toMatchObject({
      failure: 'not_found',
      fix: 'The one in the models folder of this machine is local:own.',
    })
    await expect(it.update(made.id, { model: 'local:other' })).rejects.toThrow(/'other' in the models folder/)
    expect((await it.update(made.id, { model: 'local:own' })).spec.versions[1]!.sources).toEqual({})
  })

  test('a project cannot serve what is another project’s, by name or by id', async () => {
    await using it = await run(databases)
    const theirs = await it.add('secret', 1, { project: 'q' })
    await it.promoted('theirs', theirs)
    for (const model of ['theirs', 'theirs@1', theirs.id, 'checkpoint:secret'])
      await expect(it.create({ model })).rejects.toMatchObject({ failure: 'not_found' })
    expect((await it.create({ model: 'theirs' }, 'q')).spec.target).toBe('v1')
  })

  test('what a deployment serves, or went back from, is neither deleted nor pruned', async () => {
    await using it = await run(databases)
    const retention = new Retention(it.checkpoints)
    await retention.set('p', 'few', { jobs: '*', keep_last: 1 })
    const told = { job: { id: 'job_1', name: 'train' }, layout, metrics: {} }
    const steps = await Promise.all(
      [1, 2, 3, 4].map(async (step) =>
        it.checkpoints.ofJob('p', {
          ...{ ...told, step },
          files: await it.filesOf('p', ['config.json'], step),
        }),
      ),
    )
    const { model } = await it.promoted('stories', await it.add('a', 9))
    const made = await it.create({ model: 'checkpoint:train@1' })
    await it.update(made.id, { model: 'checkpoint:train@2' })
    // As if v1 had served before v2 took over: it is a rollback away.
    const served = (version: string, served: string[]) => (row: { status: object }) => ({
      status: { ...row.status, serving: version, served } as never,
    })
    await it.deployments.nouns.change(made.id, served('v2', ['v1', 'v2']))
    expect(await retention.sweep()).toBe(1)
    await expect(it.checkpoints.delete(steps[0]!)).rejects.toThrow('train-1 is used by the deployment chat.')
    await it.update(made.id, { model: 'stories' })
    await it.deployments.nouns.change(made.id, served('v3', ['v1', 'v2', 'v3']))
    await expect(it.models.delete(model)).rejects.toThrow('stories is used by the deployment chat.')
    expect([...(await checkpointsUsedOn(it.store, 'local'))]).toHaveLength(2)
    expect(await retention.sweep()).toBe(1)
    await expect(it.deployments.rollback(made.id, 'v1')).rejects.toThrow(
      'v1 cannot come back: its checkpoint train-1 was deleted.',
    )
    expect((await it.deployments.rollback(made.id, 'v2')).spec.target).toBe('v2')
    await it.deployments.nouns.change(made.id, () => ({ deleted_at: it.clock.unixMs() }))
    await it.models.delete(model)
    await it.checkpoints.delete(steps[1]!)
  })

  test('content becomes one checked folder for whoever has the same, until nobody uses it', async () => {
    await using it = await run(databases)
    const row = await it.add('a', 1)
    const same = await it.add('same', 1, { project: 'q' })
    expect(await it.folders.locate(row.id)).toMatchObject({ ok: false, later: true })
    const found = await it.located(row.id)
    expect(found).toEqual({ ok: true, path: join(it.cache, row.digest) })
    const path = join(it.cache, row.digest)
    expect(readdirSync(path).sort()).toEqual(['config.json', 'model.safetensors'])
    expect(readFileSync(join(path, 'model.safetensors'))).toEqual(Buffer.from(small(11)))
    // Not a second time on the disk.
    expect(statSync(join(path, 'model.safetensors')).nlink).toBe(2)
    expect(await it.folders.locate(same.id)).toEqual(found)
    utimesSync(path, 1, 1)
    expect(await it.folders.sweep(async () => [same.id])).toBe(0)
    expect(await it.folders.sweep(async () => [])).toBe(1)
    expect(existsSync(path)).toBe(false)
  })

  test('content that was damaged in the store is not served, and what a crash left is done again', async () => {
    await using it = await run(databases)
    const row = await it.add('a', 1)
    mkdirSync(join(it.cache, `${row.digest}.making`))
    writeFileSync(join(it.cache, `${row.digest}.making`, 'config.json'), 'half of')
    const [file] = await it.checkpoints.files(row)
    const { key } = await it.checkpoints.placeOf(row, file!)
    const stored = it.objects.pathOf(key)
    const content = readFileSync(stored)
    writeFileSync(stored, Buffer.alloc(content.length))
    expect(await it.located(row.id)).toEqual({
      ok: false,
      message: 'config.json has not the content that was stored.',
    })
    expect(existsSync(join(it.cache, row.digest))).toBe(false)
    writeFileSync(stored, content)
    it.clock.advance(10_001)
    const again = new ModelFolders(it.checkpoints, it.cache, pino({ level: 'silent' }))
    await again.locate(row.id)
    await again.idle()
    expect(await again.locate(row.id)).toEqual({ ok: true, path: join(it.cache, row.digest) })
  })

  test('a linked folder is served where it lies, and not after it has changed', async () => {
    await using it = await run(databases)
    mkdirSync(join(it.linked, 'sub'), { recursive: true })
    const path = join(it.linked, 'sub', 'm.gguf')
    writeFileSync(path, 'weights')
    const link = { url: pathToFileURL(join(it.linked, 'sub')).href }
    const row = await it.checkpoints.link('p', { name: 'there', step: 5, layout, description: '' }, link)
    expect(await it.folders.locate(row.id)).toEqual({ ok: true, path })
    expect(readdirSync(it.cache)).toEqual([])
    writeFileSync(path, 'others!!')
    expect(await it.folders.locate(row.id)).toMatchObject({
      ok: false,
      message: expect.stringMatching(/m.gguf has changed/),
    })
  })
  test('an adapter goes only to what it was trained on, and its name costs one look a second, none after a rollback', async () => {
    await using it = await run(databases)
    const [a, b] = [await it.add('a', 1), await it.add('b', 2)]
    const twin = await it.add('a-again', 1)
    const { id } = await it.create({ model: 'checkpoint:a' })
    const publications = new Publications(it.checkpoints)
    const publish = async (step: number, base?: string) => {
      const names = ['adapter_config.json', 'adapter_model.safetensors']
      const { id: checkpoint } = await it.add(`adapter-${step}`, 100 + step, { names })
      return await publications.publish('p', 'chat', { checkpoint, job: 'job_1', step, base })
    }
    await expect(publish(1, b.id)).rejects.toThrow(
      /^chat serves checkpoint a \(v1\), and the adapter is of checkpoint b\.$/,
    )
    await publish(2, a.id)
    await publish(3, twin.id)
    const asked = async (name = 'chat:latest') => (await publications.find('p', name))?.name
    expect(await asked()).toBe('chat:latest@2')
    const calls = it.faults.calls
    for (let i = 0; i < 50; i++) expect(await asked()).toBe('chat:latest@2')
    expect(it.faults.calls).toBe(calls)
    expect(await asked('chat:latest@1')).toBe('chat:latest@1')
    await publications.rollback('p', 'chat')
    expect(await asked()).toBe('chat:latest@1')
    // Another server's word counts after a second at most.
    await new Publications(it.checkpoints).rollback('p', 'chat')
    it.clock.advance(1000)
    expect(await asked()).toBe('chat:latest@2')
    await it.update(id, { model: 'checkpoint:b' })
    it.clock.advance(1000)
    await expect(asked()).rejects.toMatchObject({
      code: 'adapter_of_another_base',
      message: 'chat:latest@2 was trained on checkpoint a-again, and chat serves checkpoint b now.',
    })
    expect(await publications.find('q', 'chat:latest')).toBeUndefined()
  })
})
