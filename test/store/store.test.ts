import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { eventsOf, recordEvent } from '../../src/control/store/events.ts'
import {
  endLeases,
  giveUpName,
  giveUpRow,
  renewRow,
  takeName,
  takeRow,
  takeRows,
} from '../../src/control/store/leases.ts'
import type { Migration } from '../../src/control/store/migrations.ts'
import { type Condition, createNounTable, type NounRow, Nouns } from '../../src/control/store/nouns.ts'
import { openStore, type Store } from '../../src/control/store/store.ts'
import { onEveryDatabase, type TestDatabases } from './databases.ts'
import { FaultInjector } from './faults.ts'

interface BoatRow extends NounRow {
  readonly spec: { readonly sails: number; readonly note?: string }
  readonly status: { readonly state: string }
  readonly length: number
  readonly weight: number | null
}

const boatsMigration: Migration = {
  name: '0900-boats',
  async up(db, types) {
    await createNounTable(db, types, {
      table: 'boats',
      uniqueNames: true,
      columns: (table) =>
        table
          .addColumn('length', types.integer, (column) => column.notNull())
          .addColumn('weight', types.real),
    })
  },
}

const boat = (name: string, more: Partial<BoatRow> = {}) => ({
  project_id: 'p1',
  name,
  spec: { sails: 1 },
  status: { state: 'new' },
  length: 7,
  weight: null,
  ...more,
})

const migrations = [boatsMigration]
const boatsOf = (store: Store) => new Nouns<BoatRow>(store, 'boats', 'boat')

async function opened(databases: TestDatabases) {
  const clock = new ManualClock(1_700_000_000_000)
  const faults = new FaultInjector()
  const store = await databases.open({ migrations, clock, watch: faults.watch })
  return { clock, faults, store, boats: boatsOf(store), [Symbol.asyncDispose]: () => store.close() }
}

onEveryDatabase((databases) => {
  test('a row reads back as it was written: numbers, JSON in its key order, texts that look like JSON', async () => {
    await using run = await opened(databases)
    const spec = { sails: 2, note: 'é "q" \u0000 [1]', b: [1, { z: null, a: 0.5 }], a: true }
    const inserted = await run.boats.insert(boat('[1]', { spec, weight: 1.25, length: 2 ** 52 + 1 }))
    expect(inserted).toMatchObject({ name: '[1]', spec, weight: 1.25, length: 2 ** 52 + 1, version: 1 })
    const read = await run.boats.get(inserted!.id)
    expect(read).toEqual(inserted)
    expect(JSON.stringify(read!.spec)).toBe(JSON.stringify(spec))
    expect(read).toMatchObject({ created_at: 1_700_000_000_000, deleted_at: null, lease_owner: null })
  })

  test('a character that one of the databases cannot store is refused by both', async () => {
    await using run = await opened(databases)
    await expect(run.boats.insert(boat('a\0b'))).rejects.toMatchObject({ failure: 'usage' })
  })

  test('a taken name is refused, in this project, until its row is deleted', async () => {
    await using run = await opened(databases)
    const first = await run.boats.insert(boat('ann'))
    expect(await run.boats.insert(boat('ann'))).toBeUndefined()
    expect(await run.boats.insert(boat('ann', { project_id: 'p2' }))).toBeDefined()
    await run.boats.update(first!, { deleted_at: 5 })
    expect(await run.boats.insert(boat('ann'))).toBeDefined()
  })

  test('a write over a version that is gone changes nothing', async () => {
    await using run = await opened(databases)
    const first = (await run.boats.insert(boat('ann')))!
    run.clock.advance(10)
    const second = await run.boats.update(first, { length: 8 })
    expect(second).toMatchObject({ length: 8, version: 2, updated_at: first.updated_at + 10 })
    expect(await run.boats.update(first, { length: 9 })).toBeUndefined()
    expect(await run.boats.get(first.id)).toEqual(second)
  })

  test('many writers that count up by compare-and-set lose nothing', async () => {
    await using run = await opened(databases)
    const { id } = (await run.boats.insert(boat('ann', { length: 0 })))!
    const writer = () => run.boats.change(id, ({ length }) => ({ length: length + 1 }))
    await Promise.all(Array.from({ length: 20 }, writer))
    expect(await run.boats.get(id)).toMatchObject({ length: 20, version: 21 })
  })

  test('pages hold every row once, in order of bytes, while rows come and go', async () => {
    await using run = await opened(databases)
    const names = ['b', 'B', 'a', '_', 'ä', 'Z', 'a-b', 'ab', 'aB', '1', '10', '9']
    for (const name of names) await run.boats.insert(boat(name, { length: name.length }))
    const everything = async (query: { sort?: string; descending?: boolean }) => {
      const seen: string[] = []
      let cursor: string | undefined
      do {
        const page = await run.boats.list({ project: 'p1', limit: 5, ...query, ...(cursor && { cursor }) })
        seen.push(...page.rows.map(({ name }) => name))
        cursor = page.next
        // Behind the cursor: it does not disturb the rest.
        if (cursor !== undefined) await run.boats.insert(boat(`!${seen.length}`, { project_id: 'p2' }))
      } while (cursor !== undefined)
      return seen
    }
    const byBytes = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    expect(await everything({ sort: 'name' })).toEqual(byBytes)
    expect(await everything({ sort: 'name', descending: true })).toEqual(byBytes.toReversed())
    expect(await everything({})).toEqual(names)
    expect(await everything({ sort: 'length', descending: true })).toEqual(
      [...names.entries()].sort(([i, a], [j, b]) => b.length - a.length || j - i).map(([, name]) => name),
    )
  })

  test('a cursor of another list, or of nobody, is refused with what to do', async () => {
    await using run = await opened(databases)
    for (const name of ['a', 'b']) await run.boats.insert(boat(name))
    const { next } = await run.boats.list({ limit: 1, sort: 'name' })
    for (const cursor of [next!, 'x', '', Buffer.from('[1,2,3]').toString('base64url')])
      await expect(run.boats.list({ limit: 1, cursor })).rejects.toMatchObject({ failure: 'usage' })
  })

  test('the beginning of a name or an id finds its row, and a whole name wins', async () => {
    await using run = await opened(databases)
    const [ann, anna, other] = await Promise.all(
      ['ann', 'anna', 'a%_'].map((name) => run.boats.insert(boat(name))),
    )
    expect(await run.boats.find('p1', 'ann')).toEqual([ann])
    expect(await run.boats.find('p1', 'anna')).toEqual([anna])
    expect((await run.boats.find('p1', 'an')).length).toBe(2)
    expect(await run.boats.find('p1', 'a%')).toEqual([other])
    expect(await run.boats.find('p1', ann!.id)).toEqual([ann])
    expect(await run.boats.find('p2', 'ann')).toEqual([])
    expect((await run.boats.find('p1', 'boat_')).length).toBe(3)
  })

  test('a transaction is all or nothing, and who is inside sees it', async () => {
    await using run = await opened(databases)
    const failing = run.store.transaction(async () => {
      await run.boats.insert(boat('ann'))
      await run.store.transaction(() => run.boats.insert(boat('bob')))
      expect((await run.boats.list({ limit: 10 })).rows.length).toBe(2)
      throw new Error('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect((await run.boats.list({ limit: 10 })).rows).toEqual([])
    let woken = 0
    await run.store.transaction(async () => {
      run.store.afterCommit(() => woken++)
      await run.boats.insert(boat('ann'))
      expect(woken).toBe(0)
    })
    expect(woken).toBe(1)
    expect((await run.boats.list({ limit: 10 })).rows.length).toBe(1)
  })

  test('what was acknowledged is there, whichever call of a transaction fails and however', async () => {
    await using run = await opened(databases)
    const add = (name: string) =>
      run.store.transaction(async () => {
        const row = await run.boats.insert(boat(name))
        await recordEvent(run.store, { subject: row!.id, kind: 'boat.made', message: name })
      })
    for (const fault of ['refused', 'unanswered'] as const) {
      let rounds = 0
      for (const n of run.faults.each(fault)) {
        const name = `${fault}-${n}`
        const acknowledged = await add(name).then(
          () => true,
          () => false,
        )
        const { struck } = run.faults
        run.faults.disarm()
        const row = await run.boats.named('p1', name)
        const events = row === undefined ? 0 : (await eventsOf(run.store, row.id, { limit: 10 })).rows.length
        if (acknowledged) expect(row).toBeDefined()
        // Never one without the other.
        expect(events).toBe(row === undefined ? 0 : 1)
        if (struck) rounds = n
      }
      expect(rounds).toBeGreaterThanOrEqual(4)
    }
  })

  test('a row is worked on by one owner at a time, and by the next when the lease ends', async () => {
    await using run = await opened(databases)
    const { id } = (await run.boats.insert(boat('ann')))!
    const held = (await takeRow(run.boats, id, { owner: 'one', forMs: 1000 }))!
    expect(held).toMatchObject({ lease_owner: 'one', version: 2 })
    expect(await takeRow(run.boats, id, { owner: 'two', forMs: 1000 })).toBeUndefined()
    expect(await takeRow(run.boats, id, { owner: 'one', forMs: 1000 })).toBeUndefined()
    run.clock.advance(900)
    expect(await renewRow(run.boats, id, { owner: 'one', forMs: 1000 })).toBe(true)
    run.clock.advance(999)
    expect(await takeRow(run.boats, id, { owner: 'two', forMs: 1000 })).toBeUndefined()
    run.clock.advance(1)
    expect(await renewRow(run.boats, id, { owner: 'one', forMs: 1000 })).toBe(false)
    const next = (await takeRow(run.boats, id, { owner: 'two', forMs: 1000 }))!
    // The first one stood still and wakes up: its write comes too late.
    expect(await run.boats.update(held, { length: 1 })).toBeUndefined()
    expect(await run.boats.update(next, { length: 2 })).toBeDefined()
    await giveUpRow(run.boats, id, 'one')
    expect(await takeRow(run.boats, id, { owner: 'one', forMs: 1000 })).toBeUndefined()
    await giveUpRow(run.boats, id, 'two')
    expect(await takeRow(run.boats, id, { owner: 'one', forMs: 1000 })).toBeDefined()
    await endLeases(run.boats, (is) => is.and([is('project_id', '=', 'p1')]))
    expect(await takeRow(run.boats, id, { owner: 'two', forMs: 1000 })).toBeDefined()
  })

  test('several servers that take rows at the same time never take the same one', async () => {
    const url = await databases.fresh()
    const clock = new ManualClock(1_700_000_000_000)
    const servers: Store[] = []
    for (let i = 0; i < 3; i++) servers.push(await openStore(url, { migrations, clock }))
    for (let i = 0; i < 60; i++) await boatsOf(servers[0]!).insert(boat(`b${i}`, { length: i }))
    const where: Condition = (is) => is.and([is('length', '>=', 10)])
    const take = (store: Store, owner: string) =>
      takeRows(boatsOf(store), { owner, forMs: 1000, limit: 7, where })
    const taken = await Promise.all(
      servers.flatMap((store, i) => [1, 2, 3].map((loop) => take(store, `${i}-${loop}`))),
    )
    const ids = taken.flat().map(({ id }) => id)
    expect(new Set(ids).size).toBe(ids.length)
    expect(taken.flat().every(({ length }) => length >= 10)).toBe(true)
    for (let left = 50 - ids.length; left > 0; ) {
      const more = (await take(servers[1]!, 'last')).map(({ id }) => id)
      expect(more.length).toBeGreaterThan(0)
      expect(more.some((id) => ids.includes(id))).toBe(false)
      ids.push(...more)
      left -= more.length
    }
    for (const store of servers) await store.close()
  })

  test('a named lease has one owner, who may renew it', async () => {
    await using run = await opened(databases)
    const terms = (owner: string) => ({ owner, forMs: 100 })
    expect(await takeName(run.store, 'scheduler', terms('one'))).toBe(true)
    expect(await takeName(run.store, 'scheduler', terms('two'))).toBe(false)
    run.clock.advance(90)
    expect(await takeName(run.store, 'scheduler', terms('one'))).toBe(true)
    run.clock.advance(90)
    expect(await takeName(run.store, 'scheduler', terms('two'))).toBe(false)
    run.clock.advance(10)
    expect(await takeName(run.store, 'scheduler', terms('two'))).toBe(true)
    await giveUpName(run.store, 'scheduler', 'one')
    expect(await takeName(run.store, 'scheduler', terms('one'))).toBe(false)
    await giveUpName(run.store, 'scheduler', 'two')
    expect(await takeName(run.store, 'scheduler', terms('one'))).toBe(true)
  })

  test('events of a subject come back in their order, also within a millisecond', async () => {
    await using run = await opened(databases)
    for (let i = 0; i < 25; i++)
      await recordEvent(run.store, {
        subject: 's',
        project: 'p1',
        kind: 'k',
        message: `${i}`,
        details: { i },
      })
    const first = await eventsOf(run.store, 's', { limit: 20 })
    const rest = await eventsOf(run.store, 's', { limit: 20, cursor: first.next! })
    expect([...first.rows, ...rest.rows].map(({ details }) => details.i)).toEqual([...Array(25).keys()])
    expect(rest.next).toBeUndefined()
  })

  test('a migration that fails leaves nothing behind and is named', async () => {
    const url = await databases.fresh()
    await (await openStore(url, { migrations })).close()
    const broken: Migration = {
      name: '0950-broken',
      async up(db, types) {
        await db.schema.createTable('half').addColumn('id', types.text).execute()
        await db.schema.dropTable('nowhere').execute()
      },
    }
    await expect(openStore(url, { migrations: [...migrations, broken] })).rejects.toThrow(
      /0950-broken failed/,
    )
    await using store = await openStore(url, { migrations })
    await expect(
      store.db<{ half: { id: string } }>().selectFrom('half').selectAll().execute(),
    ).rejects.toThrow(/half/)
  })
})

test('an unknown kind of database and one that cannot be reached say what to do, without the password', async () => {
  await expect(openStore('mysql://u:secret@h/d', { migrations })).rejects.toMatchObject({ failure: 'usage' })
  const unreachable = openStore('postgres://u:secret@127.0.0.1:1/d', { migrations })
  await expect(unreachable).rejects.toMatchObject({ failure: 'unreachable' })
  await unreachable.catch((error: Error) => expect(error.message).not.toContain('secret'))
})
