import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { sweepBlobs } from '../../src/control/blobs/sweep.ts'
import type { NewVersion } from '../../src/control/datasets/datasets.ts'
import { eventsOf } from '../../src/control/store/events.ts'
import { hash, read } from '../objects/bytes.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { InjectedFault } from '../store/faults.ts'
import { announcementOf, large, opened, partsOf, small, upload } from './harness.ts'

type Opened = Awaited<ReturnType<typeof opened>>

const version = (files: NewVersion['files'], more: Partial<NewVersion> = {}): NewVersion => ({
  ...{ files, keep: true, remove: [], message: '' },
  ...more,
})

async function contentsOf({ datasets }: Opened, reference: string): Promise<Record<string, string>> {
  const { version } = await datasets.resolve('p', reference)
  const contents: Record<string, string> = {}
  for (const file of await datasets.files(version)) {
    const { objects, key } = await datasets.placeOf(version, file)
    contents[file.path] = hash(await read((await objects.get(key))!))
  }
  return contents
}

const day = 24 * 3_600_000

onEveryDatabase((databases) => {
  test('versions keep what they held while later ones add, replace and remove', async () => {
    await using run = await opened(databases)
    const [a, b, c] = [
      await upload(run.blobs, 'p', small(1)),
      await upload(run.blobs, 'p', large),
      await upload(run.blobs, 'p', small(3)),
    ]
    await run.datasets.addVersion(
      'p',
      'd',
      version([
        { path: 'a.jsonl', blob: a! },
        { path: 'x/b.jsonl', blob: b! },
      ]),
    )
    await run.datasets.addVersion(
      'p',
      'd',
      version([{ path: 'a.jsonl', blob: c! }], { message: 'a better a' }),
    )
    await run.datasets.addVersion('p', 'd', version([], { remove: ['x/b.jsonl'] }))
    expect(await contentsOf(run, 'd@1')).toEqual({ 'a.jsonl': hash(small(1)), 'x/b.jsonl': hash(large) })
    expect(await contentsOf(run, 'd@2')).toEqual({ 'a.jsonl': hash(small(3)), 'x/b.jsonl': hash(large) })
    expect(await contentsOf(run, 'd')).toEqual({ 'a.jsonl': hash(small(3)) })
    const { rows } = await run.datasets.versions((await run.datasets.resolve('p', 'd')).dataset, {
      limit: 10,
    })
    expect(rows.map(({ number, files, message }) => [number, files, message])).toEqual([
      [3, 1, ''],
      [2, 2, 'a better a'],
      [1, 2, ''],
    ])
  })

  test('the same content said twice is one version and is stored once', async () => {
    await using run = await opened(databases)
    const first = await upload(run.blobs, 'p', large)
    expect(await run.blobs.open('p', announcementOf(large))).toMatchObject({
      blob: { id: first },
      missing: [],
    })
    const wanted = version([
      { path: 'a', blob: first },
      { path: 'b', blob: first },
    ])
    expect((await run.datasets.addVersion('p', 'd', wanted)).version.number).toBe(1)
    expect((await run.datasets.addVersion('p', 'd', wanted)).version.number).toBe(1)
    expect((await run.objects.list()).objects).toHaveLength(1)
    // Another project learns nothing of it.
    expect((await run.blobs.open('q', announcementOf(large))).missing).toEqual([1, 2])
    await expect(run.datasets.addVersion('q', 'd', wanted)).rejects.toThrow(/is not complete/)
  })

  test('an upload goes on with the parts that are missing, and is refused as content until it is complete', async () => {
    await using run = await opened(databases)
    const { blob, missing } = await run.blobs.open('p', announcementOf(large))
    expect(missing).toEqual([1, 2])
    await run.blobs.putPart('p', blob.id, 2, partsOf(large)[1]!)
    expect((await run.blobs.open('p', announcementOf(large))).missing).toEqual([1])
    await expect(run.blobs.complete('p', blob.id)).rejects.toThrow(/lacks 1 of 2 parts/)
    await expect(run.datasets.addVersion('p', 'd', version([{ path: 'a', blob: blob.id }]))).rejects.toThrow(
      /not complete/,
    )
    await expect(run.blobs.putPart('p', blob.id, 1, small(1))).rejects.toThrow(/must have/)
    await expect(run.blobs.putPart('p', blob.id, 3, small(1))).rejects.toThrow(/no such part/)
    await expect(run.blobs.putPart('q', blob.id, 1, partsOf(large)[0]!)).rejects.toMatchObject({
      failure: 'not_found',
    })
    const damaged = Buffer.from(partsOf(large)[0]!)
    damaged[5]! ^= 1
    await expect(run.blobs.putPart('p', blob.id, 1, damaged)).rejects.toThrow(/damaged/)
    await upload(run.blobs, 'p', large)
  })

  test('names, paths and lists that cannot be are refused with what to do', async () => {
    await using run = await opened(databases)
    const blob = await upload(run.blobs, 'p', small(1))
    const add = (...paths: string[]) =>
      run.datasets.addVersion('p', 'd', version(paths.map((path) => ({ path, blob }))))
    await expect(add('../up')).rejects.toThrow(/cannot name an object/)
    await expect(add('a', 'a/b')).rejects.toThrow(/a file and a folder/)
    await expect(add()).rejects.toThrow(/needs a file/)
    await add('a')
    await expect(run.datasets.addVersion('p', 'd', version([], { remove: ['b'] }))).rejects.toThrow(
      /no file b/,
    )
    await expect(run.datasets.resolve('p', 'd@7')).rejects.toThrow(/no version 7; the newest is 1/)
    await expect(run.datasets.resolve('p', 'e')).rejects.toThrow(/no dataset "e"/)
    await expect(run.blobs.open('p', { bytes: 9, parts: [] })).rejects.toThrow(/have 1 parts/)
  })

  test('an empty file is a file', async () => {
    await using run = await opened(databases)
    const blob = await upload(run.blobs, 'p', Buffer.alloc(0))
    await run.datasets.addVersion('p', 'd', version([{ path: 'empty', blob }]))
    expect(await contentsOf(run, 'd')).toEqual({ empty: hash(Buffer.alloc(0)) })
  })

  test('a linked folder is read where it lies; what changed there is refused until somebody looks again', async () => {
    await using run = await opened(databases)
    const folder = join(run.folder, 'linked', 'texts')
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'a.txt'), 'one')
    const link = { url: pathToFileURL(folder).href }
    const { version: first } = await run.datasets.link('p', 'd', link, '')
    expect(first).toMatchObject({ number: 1, files: 1, bytes: 3 })
    expect(await contentsOf(run, 'd')).toEqual({ 'a.txt': hash(Buffer.from('one')) })
    expect((await run.datasets.refresh('p', 'd')).version.number).toBe(1)
    writeFileSync(join(folder, 'a.txt'), 'other')
    expect((await run.datasets.refresh('p', 'd')).version).toMatchObject({ number: 2, bytes: 5 })
    expect((await run.objects.list()).objects).toEqual([])
    await expect(run.datasets.addVersion('p', 'd', version([]))).rejects.toThrow(/is linked/)
    const elsewhere = { url: pathToFileURL(run.folder).href }
    await expect(run.datasets.link('p', 'e', elsewhere, '')).rejects.toMatchObject({ failure: 'auth' })
    await expect(run.datasets.link('p', 'e', { url: 'file:///etc' }, '')).rejects.toMatchObject({
      failure: 'auth',
    })
    await expect(run.datasets.link('p', 'e', { url: 's3://b/c' }, '')).rejects.toThrow(/credential/)
    await expect(run.datasets.link('p', 'e', { url: 'ftp://b/c' }, '')).rejects.toThrow(/cannot be linked/)
  })

  test('a deleted dataset can be restored for a day; then it goes, and its content a day after that', async () => {
    await using run = await opened(databases)
    const blob = await upload(run.blobs, 'p', small(1))
    const { dataset } = await run.datasets.addVersion('p', 'd', version([{ path: 'a', blob }]))
    await run.datasets.delete(dataset)
    await expect(run.datasets.resolve('p', 'd')).rejects.toThrow(/no dataset/)
    run.clock.advance(day - 1)
    expect(await run.datasets.purge()).toBe(0)
    await run.datasets.restore('p', dataset.id)
    expect(await contentsOf(run, 'd')).toEqual({ a: hash(small(1)) })
    run.clock.advance(2 * day)
    expect(await run.datasets.purge()).toBe(0)
    expect(await sweepBlobs(run.blobs)).toBe(0)
    await run.datasets.delete((await run.datasets.resolve('p', 'd')).dataset)
    await run.datasets.addVersion('p', 'd', version([{ path: 'b', blob }]))
    await expect(run.datasets.restore('p', dataset.id)).rejects.toThrow(/another dataset d/)
    run.clock.advance(day + 1)
    expect(await run.datasets.purge()).toBe(1)
    await expect(run.datasets.restore('p', dataset.id)).rejects.toMatchObject({ failure: 'not_found' })
    // Its name's next owner uses the same content.
    run.clock.advance(2 * day)
    expect(await sweepBlobs(run.blobs)).toBe(0)
    expect(await contentsOf(run, 'd')).toEqual({ b: hash(small(1)) })
    const { rows } = await eventsOf(run.store, dataset.id, { limit: 10 })
    expect(rows.map(({ kind }) => kind)).toEqual(
      ['created', 'version', 'deleted', 'restored', 'deleted'].map((kind) => `dataset.${kind}`),
    )
  })

  test('content that nothing names is swept after a day, an upload that stopped after a week', async () => {
    await using run = await opened(databases)
    await upload(run.blobs, 'p', small(1))
    const { blob } = await run.blobs.open('p', announcementOf(large))
    await run.blobs.putPart('p', blob.id, 1, partsOf(large)[0]!)
    run.clock.advance(day - 1)
    expect(await sweepBlobs(run.blobs)).toBe(0)
    run.clock.advance(2)
    expect(await sweepBlobs(run.blobs)).toBe(1)
    expect((await run.objects.list()).objects).toEqual([])
    expect((await run.blobs.open('p', announcementOf(large))).missing).toEqual([2])
    run.clock.advance(7 * day + 1)
    expect(await sweepBlobs(run.blobs)).toBe(1)
    await expect(run.blobs.putPart('p', blob.id, 2, partsOf(large)[1]!)).rejects.toMatchObject({
      failure: 'not_found',
    })
    expect((await run.blobs.open('p', announcementOf(large))).missing).toEqual([1, 2])
  })

  test('two writers of one dataset both get their version', async () => {
    await using run = await opened(databases)
    const blobs = await Promise.all([1, 2, 3].map((seed) => upload(run.blobs, 'p', small(seed))))
    const made = await Promise.all(
      blobs.map((blob, index) => run.datasets.addVersion('p', 'd', version([{ path: `${index}`, blob }]))),
    )
    expect(made.map(({ version }) => version.number).sort()).toEqual([1, 2, 3])
    expect(Object.keys(await contentsOf(run, 'd'))).toEqual(['0', '1', '2'])
  })

  test.each(['refused', 'unanswered'] as const)(
    'an upload that is cut at any call (%s) is finished by saying the same again, and kept parts stay kept',
    async (fault) => {
      await using run = await opened(databases)
      let rounds = 0
      for (const n of run.faults.each(fault)) {
        const project = `p${n}`
        const kept: number[] = []
        const everything = async (onKept: (number: number) => void) => {
          const blob = await upload(run.blobs, project, large, onKept)
          return await run.datasets.addVersion(project, 'd', version([{ path: 'a', blob }]))
        }
        const first = await everything((number) => kept.push(number)).catch((error) => error)
        run.faults.disarm()
        if (run.faults.struck) {
          expect(first).toBeInstanceOf(InjectedFault)
          const { missing } = await run.blobs.open(project, announcementOf(large))
          for (const number of kept) expect(missing).not.toContain(number)
        } else expect(first).toMatchObject({ version: { number: 1 } })
        const { version: made } = await everything(() => undefined)
        expect(made).toMatchObject({ number: 1, files: 1, bytes: large.length })
        rounds++
      }
      expect(rounds).toBeGreaterThan(10)
    },
  )

  test('a sweep that is cut at any call takes nothing that is used, and the next one ends its work', async () => {
    await using run = await opened(databases)
    for (const n of run.faults.each('unanswered')) {
      run.faults.disarm()
      const used = await upload(run.blobs, `p${n}`, small(1))
      await run.datasets.addVersion(`p${n}`, 'd', version([{ path: 'a', blob: used }]))
      await upload(run.blobs, `p${n}`, small(2))
      run.clock.advance(2 * day)
      run.faults.arm(n, 'unanswered')
      await sweepBlobs(run.blobs).catch((error) => expect(error).toBeInstanceOf(InjectedFault))
      run.faults.disarm()
      await sweepBlobs(run.blobs)
      expect((await run.blobs.open(`p${n}`, announcementOf(small(1)))).missing).toEqual([])
      expect((await run.objects.list({ prefix: `projects/p${n}/` })).objects).toHaveLength(1)
    }
  })
})
