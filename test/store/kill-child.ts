/** Writes rows into the database given, and says so of each once it is committed; killed at the call given. */
import { openStore } from '../../src/control/store/store.ts'
import { FaultInjector } from './faults.ts'
import { type NoteTables, noteMigration } from './kill-notes.ts'

const [path, at, fault] = process.argv.slice(2)
const faults = new FaultInjector()
const store = await openStore(path!, { migrations: [noteMigration], watch: faults.watch })
faults.arm(Number(at), fault as 'killed' | 'killed_after')
for (let n = 0; n < 3; n++) {
  const id = `${at}-${fault}-${n}`
  await store.transaction(async () => {
    await store.db<NoteTables>().insertInto('notes').values({ id, half: 1 }).execute()
    await store
      .db<NoteTables>()
      .insertInto('notes')
      .values({ id: `${id}+`, half: 2 })
      .execute()
  })
  // Synchronous for a pipe: what was said was said.
  process.stdout.write(`${id}\n`)
}
process.stdout.write('all\n')
await store.close()
