import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Client } from '../../src/api/control/client.ts'
import * as api from '../../src/api/control/datasets.ts'
import * as models from '../../src/api/control/models.ts'
import { createProject } from '../../src/api/control/projects.ts'
import { dataMigrations, dataPartsOf, dataRoutesOf } from '../../src/cli/data-parts.ts'
import { Sealer } from '../../src/control/credentials/sealer.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { addMember, startService } from '../service/running.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { announcementOf, large, partsOf } from './harness.ts'

async function start(databases: TestDatabases) {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-data-'))
  const objects = FolderStore.create(folder)
  const service = await startService(databases, {
    migrations: dataMigrations,
    routes: (store) => {
      const context = { store, sealer: new Sealer(new Uint8Array(32)) } as never
      return dataRoutesOf(dataPartsOf({ context, objects, linkFolders: [], usesIn: async () => [] }))
    },
  })
  const stop = service[Symbol.asyncDispose].bind(service)
  return Object.assign(service, {
    async [Symbol.asyncDispose]() {
      await stop()
      rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    },
  })
}

const project = 'default'
const inProject = { params: { project } }

async function send(client: Client, bytes: Uint8Array, to = project): Promise<string> {
  const body = announcementOf(bytes)
  const { id, missing } = await client.call(api.beginUpload, { params: { project: to }, body })
  for (const number of missing) {
    const params = { project: to, upload: id, part: String(number) }
    await client.call(api.putPart, { params, body: partsOf(bytes)[number - 1] as Uint8Array<ArrayBuffer> })
  }
  await client.call(api.completeUpload, { params: { project: to, upload: id } })
  return id
}

const jsonl = Buffer.from(
  '{"prompt":"a","completion":"bb"}\n{"prompt":"ccc","completion":"d","n":1}\n\n{"prompt":"","completion":"e"}\n',
)

onEveryDatabase((databases) => {
  test('files go up by parts, make a version, and come down whole and by ranges', async () => {
    await using service = await start(databases)
    const { owner } = service
    const blob = await send(owner, large)
    const dataset = { project, dataset: 'texts' }
    const body = { files: [{ path: 'big.bin', blob }] }
    const made = await owner.call(api.addVersion, { params: dataset, body })
    expect(made).toMatchObject({ name: 'texts', latest: 1, version: { files: 1, bytes: large.length } })
    const read = async (range?: string) => {
      const headers = range === undefined ? {} : { headers: { range } }
      const response = await owner.bytes(api.readFile, {
        params: dataset,
        query: { path: 'big.bin' },
        ...headers,
      })
      return { response, bytes: Buffer.from(await response.arrayBuffer()) }
    }
    expect((await read()).bytes.equals(large)).toBe(true)
    const part = await read('bytes=8388600-8388610')
    expect(part.response.status).toBe(206)
    expect(part.response.headers.get('content-range')).toBe(`bytes 8388600-8388610/${large.length}`)
    expect(part.bytes.equals(large.subarray(8388600, 8388611))).toBe(true)
    expect((await read('bytes=-3')).bytes.equals(large.subarray(-3))).toBe(true)
    const gone = owner.bytes(api.readFile, { params: dataset, query: { path: 'other' } })
    await expect(gone).rejects.toMatchObject({ code: 'not_found' })
  })

  test('an upload whose client goes away is no failure of the service, and one that is too large is told what to do', async () => {
    await using service = await start(databases)
    const { id } = await service.owner.call(api.beginUpload, { ...inProject, body: announcementOf(large) })
    const { hostname, port } = new URL(service.url)
    const socket = connect(Number(port), hostname)
    const path = `/api/v1/projects/${project}/uploads/${id}/parts/1`
    const headers = `host: x\r\nauthorization: Bearer ${service.ownerKey}\r\ncontent-type: application/octet-stream`
    socket.write(`PUT ${path} HTTP/1.1\r\n${headers}\r\ncontent-length: ${8 << 20}\r\n\r\n`)
    socket.write(large.subarray(0, 1 << 20), () => socket.destroy())
    await expect.poll(() => service.log.some((line) => /parts.*the client went away/.test(line))).toBe(true)
    expect(service.log.filter((line) => line.includes('"level":50'))).toEqual([])
    const body = { files: [{ path: 'x'.repeat(1 << 20), blob: id }] } as never
    const call = service.owner.call(api.addVersion, { params: { project, dataset: 'texts' }, body })
    await expect(call).rejects.toMatchObject({
      code: 'too_large',
      message: expect.stringContaining('larger than 1 MiB'),
      fix: expect.stringContaining('dataset'),
    })
  })

  test('records are previewed and counted as the trainer reads them, and damage is named', async () => {
    await using service = await start(databases)
    const { owner } = service
    const dataset = { project, dataset: 'pairs' }
    const files = [
      { path: 'a.jsonl', blob: await send(owner, jsonl) },
      { path: 'b.csv', blob: await send(owner, Buffer.from('prompt,completion\n"x, y",z\n')) },
    ]
    await owner.call(api.addVersion, { params: dataset, body: { files } })
    const first = await owner.call(api.previewDataset, { params: dataset, query: { limit: 2 } })
    expect(first).toEqual({
      path: 'a.jsonl',
      problem: null,
      records: [
        { line: 1, value: { prompt: 'a', completion: 'bb' } },
        { line: 2, value: { prompt: 'ccc', completion: 'd', n: 1 } },
      ],
    })
    const table = await owner.call(api.previewDataset, { params: dataset, query: { path: 'b.csv' } })
    expect(table.records[0]!.value).toEqual({ prompt: 'x, y', completion: 'z' })
    const counted = await owner.call(api.datasetStatistics, { params: dataset })
    expect(counted).toMatchObject({ records: 4, whole: true, problems: [] })
    expect(counted.fields[0]).toEqual({
      ...{ name: 'prompt', records: 4, types: { string: 4 } },
      ...{ length_mean: 2, length_max: 4 },
    })
    const damaged = [{ path: 'a.jsonl', blob: await send(owner, Buffer.from('{"a":1}\n{oops\n')) }]
    await owner.call(api.addVersion, { params: dataset, body: { files: damaged } })
    const broken = await owner.call(api.previewDataset, { params: dataset })
    expect(broken.records).toHaveLength(1)
    expect(broken.problem).toMatch(/a\.jsonl.*2.*not JSON/)
    const again = await owner.call(api.datasetStatistics, { params: { project, dataset: 'pairs@1' } })
    expect(again.records).toBe(4)
  })

  test('roles and projects keep what is not theirs out, and wrong input is refused as such', async () => {
    await using service = await start(databases)
    const { owner } = service
    const blob = await send(owner, jsonl)
    const params = { project, dataset: 'pairs' }
    const body = { files: [{ path: 'a.jsonl', blob }] }
    const guest = await addMember(service, 'guest', 'guest')
    await expect(guest.call(api.addVersion, { params, body })).rejects.toMatchObject({ code: 'forbidden' })
    await owner.call(api.addVersion, { params, body })
    expect((await guest.call(api.listDatasets, inProject)).items).toMatchObject([
      { name: 'pairs', latest: 1 },
    ])
    await owner.call(createProject, { params: { organisation: 'main' }, body: { name: 'other' } })
    const elsewhere = { params: { project: 'other', dataset: 'pairs' } }
    await expect(owner.call(api.viewDataset, elsewhere)).rejects.toMatchObject({ code: 'not_found' })
    await expect(owner.call(api.addVersion, { ...elsewhere, body })).rejects.toMatchObject({
      code: 'conflict',
    })
    const bad = { params: { project, dataset: 'No Name' }, body }
    await expect(owner.call(api.addVersion, bad)).rejects.toMatchObject({ code: 'invalid_request' })
    const { id } = await owner.call(api.beginUpload, { ...inProject, body: announcementOf(large) })
    for (const part of ['0', '3', 'x', '1e1']) {
      const sent = owner.call(api.putPart, { params: { project, upload: id, part }, body: new Uint8Array(5) })
      await expect(sent).rejects.toMatchObject({ code: 'invalid_request' })
    }
    const long = new Uint8Array(8388609)
    const sent = owner.call(api.putPart, { params: { project, upload: id, part: '2' }, body: long })
    await expect(sent).rejects.toMatchObject({ code: 'invalid_request' })
    expect(
      (await owner.call(api.beginUpload, { ...inProject, body: announcementOf(large) })).missing,
    ).toEqual([1, 2])
  })

  test('a dataset is renamed, deleted, listed as deleted and restored', async () => {
    await using service = await start(databases)
    const { owner } = service
    const body = { files: [{ path: 'a.jsonl', blob: await send(owner, jsonl) }] }
    const params = { project, dataset: 'pairs' }
    await owner.call(api.addVersion, { params, body })
    await owner.call(api.editDataset, { params, body: { name: 'renamed', description: 'of two' } })
    const { id } = await owner.call(api.viewDataset, { params: { project, dataset: 'rena' } })
    await owner.call(api.deleteDataset, { params: { project, dataset: 'renamed' } })
    expect((await owner.call(api.listDatasets, inProject)).items).toEqual([])
    const query = { deleted: 'true' } as const
    expect((await owner.call(api.listDatasets, { ...inProject, query })).items).toMatchObject([{ id }])
    const restored = await owner.call(api.restoreDataset, { params: { project, dataset: id } })
    expect(restored).toMatchObject({ name: 'renamed', description: 'of two' })
  })

  test('a checkpoint is promoted, its alias moves back, its lineage is told, and rules are kept', async () => {
    await using service = await start(databases)
    const { owner } = service
    for (const [name, text] of [
      ['a', 'one'],
      ['b', 'two'],
    ] as const) {
      const files = [{ path: 'model.safetensors', blob: await send(owner, Buffer.from(text)) }]
      const body = { name, files, layout: { tensor: 2 } }
      const made = await owner.call(models.createCheckpoint, { ...inProject, body })
      expect(made).toMatchObject({
        format: 'safetensors',
        layout: { data: 1, tensor: 2 },
        source: { kind: 'upload' },
      })
    }
    const params = { project, model: 'chat' }
    for (const checkpoint of ['a', 'b']) {
      await owner.call(models.promote, { params, body: { checkpoint, alias: 'prod' } })
    }
    const prod = () => owner.call(models.viewModel, { params: { project, model: 'chat:prod' } })
    expect((await prod()).checkpoint.name).toBe('b')
    await owner.call(models.setAlias, { params: { ...params, alias: 'prod' }, body: { version: 1 } })
    expect((await prod()).checkpoint.name).toBe('a')
    const { edges } = await owner.call(models.modelLineage, { params: { project, model: 'chat@2' } })
    expect(edges.map(({ from, to }) => [from.label, to.label])).toEqual([['checkpoint b', 'model chat@2']])
    const kept = owner.call(models.deleteCheckpoint, { params: { project, checkpoint: 'a' } })
    await expect(kept).rejects.toMatchObject({ code: 'conflict' })
    const rule = { params: { project, rule: 'few' }, body: { keep_last: 2 } }
    await owner.call(models.setRetention, rule)
    const { items } = await owner.call(models.listRetention, inProject)
    expect(items).toMatchObject([{ name: 'few', rule: { jobs: '*', keep_last: 2 } }])
    await owner.call(models.deleteRetention, { params: rule.params })
    expect((await owner.call(models.listRetention, inProject)).items).toEqual([])
  })
})
