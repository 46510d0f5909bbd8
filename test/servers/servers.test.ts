import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Sealer } from '../../src/control/credentials/sealer.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { agreeOnObjects, agreeOnSecrets } from '../../src/control/servers/agreement.ts'
import { serversMigration } from '../../src/control/servers/migration.ts'
import { beat, enterServer, goneMs, isGone, listServers } from '../../src/control/servers/servers.ts'
import { openStore } from '../../src/control/store/store.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { FaultInjector } from '../store/faults.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-servers-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))
const migrations = [serversMigration]
let count = 0
const place = () => FolderStore.create(join(folder, `objects-${++count}`))

onEveryDatabase((databases) => {
  const open = (clock = new ManualClock(1_700_000_000_000)) => databases.open({ migrations, clock })

  test('a cluster has one server, and a name passes to another only when that one is gone', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using store = await open(clock)
    const server = (id: string, cluster: string) => ({
      id,
      cluster,
      url: `http://${id}:1`,
      gateway_url: null,
    })
    await enterServer(store, server('one', 'a'))
    await expect(enterServer(store, server('two', 'a'))).rejects.toMatchObject({ failure: 'conflict' })
    await enterServer(store, server('two', 'b'))
    // The same folder again, after a crash.
    await enterServer(store, server('one', 'a'))
    clock.advance(goneMs)
    await beat(store, 'two')
    clock.advance(1)
    const gone = (await listServers(store)).map((row) => [row.id, isGone(row, clock.unixMs())])
    expect(gone).toEqual([
      ['one', true],
      ['two', false],
    ])
    await enterServer(store, server('three', 'a'))
    expect((await listServers(store)).map(({ id }) => id)).toEqual(['three', 'two'])
  })

  // A libsql file has one server, and two connections of one process would wait for each other.
  test.skipIf(databases.kind === 'libsql')(
    'servers that start at the same time in different places do not both come to serve',
    async () => {
      const url = await databases.fresh()
      const first = await openStore(url, { migrations })
      const second = await openStore(url, { migrations })
      const outcomes = await Promise.allSettled([
        agreeOnObjects(first, place()),
        agreeOnObjects(second, place()),
      ])
      expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
      await first.close()
      await second.close()
    },
  )

  test('a start that dies at any call of the database leaves a place that the next start agrees about', async () => {
    for (const fault of ['refused', 'unanswered'] as const) {
      const faults = new FaultInjector()
      const url = await databases.fresh()
      await using unwatched = await openStore(url, { migrations })
      await using store = await openStore(url, { migrations, watch: faults.watch })
      // Its first call opens the connection.
      await listServers(store)
      for (const _ of faults.each(fault)) {
        const objects = place()
        // As on a first start.
        await unwatched.db<{ service_facts: object }>().deleteFrom('service_facts').execute()
        await agreeOnObjects(store, objects).catch((error: Error) => expect(error.name).toBe('InjectedFault'))
        faults.disarm()
        await agreeOnObjects(store, objects)
        await expect(agreeOnObjects(store, place())).rejects.toMatchObject({ failure: 'conflict' })
      }
    }
  })

  test('a key that is not the one of the stored credentials is refused until it is said to replace it', async () => {
    await using store = await open()
    const [key, other] = [7, 8].map((value) => new Sealer(new Uint8Array(32).fill(value)))
    await agreeOnSecrets(store, key!, false)
    await agreeOnSecrets(store, key!, false)
    await expect(agreeOnSecrets(store, other!, false)).rejects.toMatchObject({ failure: 'conflict' })
    await agreeOnSecrets(store, other!, true)
    await expect(agreeOnSecrets(store, key!, false)).rejects.toThrow(/this server has/)
  })
})
