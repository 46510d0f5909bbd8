/** The databases that everything of the control plane is tested on. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe } from 'vitest'
import { openStore, type Store, type StoreOptions } from '../../src/control/store/store.ts'
import { PostgresServer, postgresMissing } from './postgres-server.ts'

export interface TestDatabases {
  readonly kind: 'libsql' | 'postgres'
  /** The address of a new, empty database. */
  fresh(): Promise<string>
  /** A store on a new, empty database. */
  open(options: StoreOptions): Promise<Store>
}

/**
 * Runs the tests that `tests` defines on a libsql file and, where it is installed, on PostgreSQL:
 *
 *     onEveryDatabase((databases) => {
 *       test('...', async () => {
 *         await using store = await databases.open({ migrations: [jobsMigration] })
 */
export function onEveryDatabase(tests: (databases: TestDatabases) => void): void {
  describe('libsql', () => {
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-store-'))
    let count = 0
    afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))
    const fresh = async () => join(folder, `${++count}`, 'ropeway.db')
    tests({ kind: 'libsql', fresh, open: async (options) => openStore(await fresh(), options) })
  })
  if (postgresMissing !== undefined) console.warn(`skipped: ${postgresMissing}`)
  describe.skipIf(postgresMissing !== undefined)('postgres', () => {
    let server: PostgresServer
    beforeAll(async () => {
      server = await PostgresServer.start()
    })
    afterAll(() => server[Symbol.asyncDispose]())
    const fresh = () => server.database()
    tests({ kind: 'postgres', fresh, open: async (options) => openStore(await fresh(), options) })
  })
}
