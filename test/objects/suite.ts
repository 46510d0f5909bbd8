import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ObjectStore, partBytesMin, type Upload } from '../../src/control/objects/store.ts'
import { bytesOf, hash, read, textOf } from './bytes.ts'

/** A place whose stores see the same objects: the second one plays the process after a crash. */
export interface Place {
  open(): ObjectStore
  /** Whether it gives out addresses that anybody may read. */
  presigns: boolean
  close(): Promise<void>
}

const put = (store: ObjectStore, key: string, text: string) =>
  store.put(key, Buffer.from(text), hash(Buffer.from(text)))

/** What every object store promises. */
export function objectStoreSuite(name: string, start: () => Promise<Place>): void {
  describe(name, () => {
    let place: Place
    let store: ObjectStore
    beforeAll(async () => {
      place = await start()
      store = place.open()
    })
    afterAll(() => place?.close())

    wholeObjects(() => store)
    uploads(
      () => store,
      () => place.open(),
    )
    listings(() => store)

    test('an address that was given out reads the object without a credential, where there are such', async () => {
      await put(store, 'given/a b+c.txt', 'to all')
      const address = await store.presign('given/a b+c.txt', 60)
      expect(address !== undefined).toBe(place.presigns)
      if (address !== undefined) expect(await (await fetch(address)).text()).toBe('to all')
    })
  })
}

function wholeObjects(the: () => ObjectStore): void {
  test('an object is read as it was written, whole and by ranges, and replaced by the next', async () => {
    await put(the(), 'a/b.txt', '0123456789')
    expect(await textOf(await the().get('a/b.txt'))).toBe('0123456789')
    expect(await textOf(await the().get('a/b.txt', { start: 3, end: 6 }))).toBe('345')
    expect(await textOf(await the().get('a/b.txt', { start: 7 }))).toBe('789')
    expect(await textOf(await the().get('a/b.txt', { start: 8, end: 100 }))).toBe('89')
    expect(await textOf(await the().get('a/b.txt', { start: 50 }))).toBe('')
    const before = await the().head('a/b.txt')
    expect(before).toMatchObject({ key: 'a/b.txt', bytes: 10 })
    await put(the(), 'a/b.txt', 'new')
    expect(await textOf(await the().get('a/b.txt'))).toBe('new')
    expect((await the().head('a/b.txt'))?.tag).not.toBe(before?.tag)
  })

  test('an object may be empty', async () => {
    await put(the(), 'empty', '')
    expect(await the().head('empty')).toMatchObject({ bytes: 0 })
    expect(await textOf(await the().get('empty'))).toBe('')
  })

  test('bytes that are not those of the hash are refused, and what was there stays', async () => {
    await put(the(), 'kept', 'old')
    const refused = the().put('kept', Buffer.from('damaged'), hash(Buffer.from('meant')))
    await expect(refused).rejects.toThrow(/arrived damaged/)
    expect(await textOf(await the().get('kept'))).toBe('old')
  })

  test('what is not there is undefined to readers and no failure to a delete', async () => {
    expect(await the().head('not/there')).toBeUndefined()
    expect(await the().get('not/there')).toBeUndefined()
    expect(await the().copy('not/there', 'nor/here')).toBe(false)
    await put(the(), 'short', 'x')
    await the().delete('short')
    await the().delete('short')
    expect(await the().head('short')).toBeUndefined()
  })

  test('a copy has the same bytes and a life of its own', async () => {
    await put(the(), 'from me', 'same')
    expect(await the().copy('from me', 'to/you')).toBe(true)
    await the().delete('from me')
    expect(await textOf(await the().get('to/you'))).toBe('same')
  })

  test('a reader of an object that is replaced meanwhile gets an error, never a mixture', async () => {
    await put(the(), 'moving', 'first')
    const body = await the().get('moving')
    await put(the(), 'moving', 'other')
    await expect(read(body!)).rejects.toThrow(/was replaced or removed/)
    const second = await the().get('moving')
    await the().delete('moving')
    await expect(read(second!)).rejects.toThrow(/was replaced or removed/)
  })

  test('keys that are ways through a file system, overlong or not text are refused with a reason', async () => {
    const ways = ['', '/', '/etc/passwd', 'a//b', '../x', 'a/../../x', 'a/./b', 'a/', '.ropeway/x', 'a\\b']
    const odd = ['a\0b', 'a\nb', 'x'.repeat(256), 'y/'.repeat(600), '\ud800']
    const bytes = Buffer.from('x')
    for (const key of [...ways, ...odd]) {
      await expect(async () => the().put(key, bytes, hash(bytes))).rejects.toThrow(/cannot name an object/)
      await expect(async () => the().get(key)).rejects.toThrow(/cannot name an object/)
      await expect(async () => the().copy('short', key)).rejects.toThrow(/cannot name an object/)
    }
  })
}

const tail = 1234
const large = bytesOf(7, 2 * partBytesMin + tail)
const part = (number: number) => large.subarray((number - 1) * partBytesMin, number * partBytesMin)

function uploads(the: () => ObjectStore, another: () => ObjectStore): void {
  const begin = (key: string) => the().begin(key, large.length, partBytesMin)
  const send = (upload: Upload, number: number, store = the()) =>
    store.putPart(upload, number, part(number), hash(part(number)))

  test('parts may come side by side, in any order, twice, and to another process; the whole is then there', async () => {
    const upload = await begin('large/object')
    await Promise.all([send(upload, 3), send(upload, 1)])
    expect(await the().head('large/object')).toBeUndefined()
    const later = another()
    const same: Upload = JSON.parse(JSON.stringify(upload))
    expect(await later.parts(same)).toEqual([1, 3])
    await expect(later.complete(same)).rejects.toThrow(/lacks 1 of 3 parts \(2\)/)
    await send(same, 3, later)
    await send(same, 2, later)
    await later.complete(same)
    expect(await later.head('large/object')).toMatchObject({ bytes: large.length })
    const body = await later.get('large/object')
    expect(hash(await read(body!))).toBe(hash(large))
    const across = await later.get('large/object', { start: partBytesMin - 2, end: partBytesMin + 2 })
    expect(await read(across!)).toEqual(large.subarray(partBytesMin - 2, partBytesMin + 2))
    // A crash may come between the completion and whoever should have written it down.
    await later.complete(same)
    // Nor may whoever cleans up too late take anything away.
    await later.abort(same)
    expect(hash(await read((await later.get('large/object'))!))).toBe(hash(large))
  })

  test('a part that arrives damaged, with another length or number is refused and not kept', async () => {
    const upload = await begin('refusing')
    await expect(the().putPart(upload, 1, part(2), hash(part(1)))).rejects.toThrow(/arrived damaged/)
    await expect(async () => the().putPart(upload, 3, part(1), hash(part(1)))).rejects.toThrow(
      /must have 1234/,
    )
    await expect(async () => the().putPart(upload, 4, part(1), hash(part(1)))).rejects.toThrow(/no part 4/)
    await expect(async () => the().putPart(upload, 0, part(1), hash(part(1)))).rejects.toThrow(/no part 0/)
    expect(await the().parts(upload)).toEqual([])
    await the().abort(upload)
  })

  test('an upload that was aborted is gone: no part is taken, nothing can be completed', async () => {
    const upload = await begin('aborted')
    await send(upload, 1)
    await the().abort(upload)
    await the().abort(upload)
    expect(await the().parts(upload)).toBeUndefined()
    await expect(send(upload, 2)).rejects.toThrow()
    await expect(the().complete(upload)).rejects.toThrow(/was aborted/)
    expect(await the().head('aborted')).toBeUndefined()
  })

  test('one part of one byte is an upload too; none, too small and too many are refused', async () => {
    const upload = await the().begin('tiny', 1, partBytesMin)
    await the().putPart(upload, 1, Buffer.from('!'), hash(Buffer.from('!')))
    await the().complete(upload)
    expect(await textOf(await the().get('tiny'))).toBe('!')
    await expect(async () => the().begin('none', 0, partBytesMin)).rejects.toThrow(/cannot be uploaded/)
    await expect(async () => the().begin('small', 9, 3)).rejects.toThrow(/cannot be uploaded/)
    await expect(async () => the().begin('many', partBytesMin * 10_001, partBytesMin)).rejects.toThrow(
      /cannot be/,
    )
  })

  test('uploads that were begun before a moment are aborted together, later ones go on', async () => {
    const upload = await begin('old')
    await send(upload, 1)
    expect(await the().abortOlder(Date.parse('2020-01-01'))).toBe(0)
    expect(await the().parts(upload)).toEqual([1])
    expect(await the().abortOlder(Date.parse('2100-01-01'))).toBeGreaterThan(0)
    expect(await the().parts(upload)).toBeUndefined()
  })
}

const names = [
  ...['l/a', 'l/a b', "l/a'(!*)", 'l/a+b', 'l/a.b', 'l/a/1', 'l/a/2/x', 'l/a0', 'l/a&amp;<b>', 'l/a%20b'],
  ...['l/b/deep/er/1', 'l/é', 'l/한국어.txt', 'l/🚡', 'l/\uff5e', 'm'],
]

function listings(the: () => ObjectStore): void {
  // A folder cannot hold both `l/a` and `l/a/1`; buckets can, and nothing here relies on it.
  const kept = names.filter((name) => name !== 'l/a')
  const ordered = [...kept].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))

  test('keys are listed in the order of their bytes, by prefix and page by page, whatever is in their names', async () => {
    for (const name of kept) await put(the(), name, name)
    const under = ordered.filter((name) => name.startsWith('l/'))
    const { objects, more } = await the().list({ prefix: 'l/' })
    expect(objects.map(({ key }) => key)).toEqual(under)
    expect(more).toBe(false)
    const first = objects[0]!
    expect(first).toEqual(await the().head(first.key))
    for (const name of under) expect(await textOf(await the().get(name))).toBe(name)

    const paged: string[] = []
    for (let after: string | undefined, more = true; more; after = paged.at(-1)) {
      const page = await the().list({ prefix: 'l/', limit: 2, ...(after === undefined ? {} : { after }) })
      expect(page.objects.length).toBeLessThanOrEqual(2)
      paged.push(...page.objects.map(({ key }) => key))
      more = page.more
    }
    expect(paged).toEqual(under)
  })

  test('a prefix need not end at a slash, and a place behind all keys lists nothing', async () => {
    const keys = async (options: Parameters<ObjectStore['list']>[0]) =>
      (await the().list(options)).objects.map(({ key }) => key)
    expect(await keys({ prefix: 'l/a/' })).toEqual(['l/a/1', 'l/a/2/x'])
    expect(await keys({ prefix: 'l/b/de' })).toEqual(['l/b/deep/er/1'])
    expect(await keys({ prefix: 'l/', after: 'l/\u{10ffff}' })).toEqual([])
    expect(await keys({ prefix: 'nothing/here' })).toEqual([])
    expect(await keys({ prefix: 'l/a', after: 'l/a/1' })).toEqual(
      ordered.filter((name) => name.startsWith('l/a') && name > 'l/a/1'),
    )
  })
}
