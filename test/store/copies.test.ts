import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { sql } from 'kysely'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { makeBackup, objectsElsewhere, restoreBackup } from '../../src/control/backup/backup.ts'
import { copyStore, digestsOf } from '../../src/control/store/copy.ts'
import { recordEvent } from '../../src/control/store/events.ts'
import type { Migration } from '../../src/control/store/migrations.ts'
import { createNounTable, type NounRow, Nouns } from '../../src/control/store/nouns.ts'
import { connectStore, openStore, type Store } from '../../src/control/store/store.ts'
import { openUpgraded } from '../../src/control/store/upgrade.ts'
import { onEveryDatabase } from './databases.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-copies-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))
const clock = new ManualClock(1_700_000_000_000)

const boats: Migration = {
  name: '0900-boats',
  up: (db, types) => createNounTable(db, types, { table: 'boats', uniqueNames: true }),
}
const crews: Migration = {
  name: '0910-crews',
  async up(db, { text, real }) {
    await db.schema
      .createTable('crews')
      .addColumn('boat_id', text, (column) => column.primaryKey().references('boats.id'))
      .addColumn('weight', real)
      .execute()
  },
}
const migrations = [boats, crews]

async function fill(store: Store, rows = 450): Promise<void> {
  const nouns = new Nouns<NounRow>(store, 'boats', 'boat')
  const [spec, status] = [{ b: 'é [1] "', a: [null, 1.5, 2 ** 53 - 1] }, {}]
  await store.transaction(async () => {
    for (let i = 0; i < rows; i++) {
      const { id } = (await nouns.insert({ project_id: 'p', name: `b${i}`, spec, status }))!
      await recordEvent(store, { subject: id, kind: 'boat.made', message: `${i}`, details: { i } })
      if (i % 3 === 0)
        await store
          .db<{ crews: { boat_id: string; weight: number | null } }>()
          .insertInto('crews')
          .values({ boat_id: id, weight: i % 2 === 0 ? i / 7 : null })
          .execute()
    }
  })
}

onEveryDatabase((databases) => {
  test('a copy into either kind of database holds every row as it was', async () => {
    await using from = await databases.open({ migrations, clock })
    await fill(from)
    const digests = await digestsOf(from)
    expect(digests.find(({ table }) => table === 'boats')!.rows).toBe(450)
    await using file = await openStore(join(folder, `${databases.kind}.db`), { migrations, clock })
    await copyStore(from, file)
    expect(await digestsOf(file)).toEqual(digests)
    await using back = await databases.open({ migrations, clock })
    await copyStore(file, back)
    expect(await digestsOf(back)).toEqual(digests)
    const boat = await new Nouns<NounRow>(back, 'boats', 'boat').named('p', 'b7')
    expect(boat).toEqual(await new Nouns<NounRow>(from, 'boats', 'boat').named('p', 'b7'))
  })

  test('a database that holds something is not copied over', async () => {
    await using from = await databases.open({ migrations, clock })
    await using to = await databases.open({ migrations, clock })
    await fill(from, 5)
    await fill(to, 1)
    const before = await digestsOf(to)
    await expect(copyStore(from, to)).rejects.toMatchObject({ failure: 'conflict' })
    expect(await digestsOf(to)).toEqual(before)
  })

  test('a database of another version is not copied from', async () => {
    await using from = await databases.open({ migrations: [boats], clock })
    await using to = await databases.open({ migrations, clock })
    await expect(copyStore(from, to)).rejects.toThrow(/not of the same version/)
  })

  test('a backup taken from a store in use restores to the same rows and files', async () => {
    const data = join(folder, `data-${databases.kind}`)
    mkdirSync(join(data, 'objects'), { recursive: true })
    writeFileSync(join(data, 'objects', 'one'), 'content')
    writeFileSync(join(data, 'secrets.key'), 'key', { mode: 0o600 })
    const target = join(folder, `backup-${databases.kind}`)
    await using store = await databases.open({ migrations, clock })
    await fill(store)
    const { tables } = await makeBackup(store, { folder: data, target, migrations })
    await expect(makeBackup(store, { folder: data, target, migrations })).rejects.toThrow(/exists already/)
    await fill2(store)
    const restored = join(folder, `restored-${databases.kind}`)
    const database = databases.kind === 'libsql' ? join(restored, 'ropeway.db') : await databases.fresh()
    await restoreBackup(target, { folder: restored, database, migrations, clock })
    await using again = await openStore(database, { migrations, clock })
    expect(await digestsOf(again)).toEqual(tables)
    expect(readFileSync(join(restored, 'objects', 'one'), 'utf8')).toBe('content')
    expect(readdirSync(restored).filter((name) => name.includes('partial'))).toEqual([])
  })

  test('a backup holds objects of another folder, and says where those of a bucket are only when told to', async () => {
    const [data, elsewhere] = ['own', 'objects'].map((name) => join(folder, `${name}-${databases.kind}`))
    for (const path of [data!, join(elsewhere!, 'deep')]) mkdirSync(path, { recursive: true })
    writeFileSync(join(elsewhere!, 'deep', 'one'), 'content')
    await using store = await databases.open({ migrations, clock })
    const options = { folder: data!, migrations }
    const into = async (name: string) => ({
      ...{
        folder: join(folder, `${name}-${databases.kind}`),
        database: await databases.fresh(),
        migrations,
        clock,
      },
    })
    const target = join(folder, `with-${databases.kind}`)
    await makeBackup(store, { ...options, target, objects: pathToFileURL(elsewhere!).href })
    expect(objectsElsewhere(target)).toBeUndefined()
    const back = await into('back')
    await restoreBackup(target, back)
    expect(readFileSync(join(back.folder, 'objects', 'deep', 'one'), 'utf8')).toBe('content')
    // Damaged later, in a file that no row speaks of.
    writeFileSync(join(target, 'files', 'objects', 'deep', 'one'), 'c0ntent')
    await expect(restoreBackup(target, await into('damaged'))).rejects.toThrow(
      /one is not what the backup says/,
    )
    const bucket = { ...options, target: `${target}-s3`, objects: 's3://bucket/ropeway' }
    await expect(makeBackup(store, bucket)).rejects.toThrow(/s3:\/\/bucket.*cannot hold/)
    await makeBackup(store, { ...bucket, withoutObjects: true })
    expect(objectsElsewhere(bucket.target)).toBe('s3://bucket/ropeway')
  })

  test('a backup that was changed afterwards is refused', async () => {
    const target = join(folder, `broken-${databases.kind}`)
    await using store = await databases.open({ migrations, clock })
    await fill(store, 5)
    await makeBackup(store, { folder: join(folder, 'none'), target, migrations })
    const bytes = readFileSync(join(target, 'ropeway.db'))
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(join(target, 'ropeway.db'), bytes)
    const into = {
      folder: join(folder, `r-${databases.kind}`),
      database: await databases.fresh(),
      migrations,
      clock,
    }
    await expect(restoreBackup(target, into)).rejects.toThrow(/not what its manifest says/)
  })

  test('missing migrations are tried on a copy first, and the database before them is kept', async () => {
    const url = await databases.fresh()
    const backups = join(folder, `backups-${databases.kind}`)
    {
      const { store, backup } = await openUpgraded(url, { migrations: [boats], clock }, backups)
      expect(backup).toBeUndefined()
      for (const name of ['a', 'b'])
        await new Nouns<NounRow>(store, 'boats', 'boat').insert({
          project_id: 'p',
          name,
          spec: {},
          status: {},
        })
      await store.close()
    }
    await using unchanged = await connectStore(url, { clock })
    const held = await digestsOf(unchanged)
    // Fails on what is stored, not on an empty database, and only after it has changed something.
    let tried = 0
    const strict: Migration = {
      name: '0920-strict',
      async up(db, { text }) {
        tried++
        await db.schema.alterTable('boats').addColumn('mast', text).execute()
        await db.schema.createIndex('one_boat').unique().on('boats').columns(['project_id']).execute()
      },
    }
    await expect(openUpgraded(url, { migrations: [boats, strict], clock }, backups)).rejects.toThrow(
      /tried on a copy and failed; nothing was changed/,
    )
    expect(tried).toBe(1)
    expect(await digestsOf(unchanged)).toEqual(held)
    if (databases.kind === 'postgres')
      expect(
        (await sql`select 1 from pg_namespace where nspname like 'ropeway%'`.execute(unchanged.db())).rows,
      ).toEqual([])
    clock.advance(1000)
    const { store, backup } = await openUpgraded(url, { migrations, clock }, backups)
    expect(await new Nouns<NounRow>(store, 'boats', 'boat').named('p', 'a')).toBeDefined()
    await store.close()
    expect(existsSync(backup!)).toBe(true)
    await using before = await openStore(backup!, { migrations: [boats], clock })
    expect(await new Nouns<NounRow>(before, 'boats', 'boat').named('p', 'a')).toBeDefined()
    expect(readdirSync(backups).some((name) => name.includes('trial'))).toBe(false)
  })
})

async function fill2(store: Store): Promise<void> {
  await recordEvent(store, { subject: 'later', kind: 'boat.made', message: 'after the backup' })
}
