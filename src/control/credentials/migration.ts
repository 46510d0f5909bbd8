import type { Migration } from '../store/migrations.ts'
import { createNounTable } from '../store/nouns.ts'

export const credentialsMigration: Migration = {
  name: '0240-credentials',
  async up(db, types) {
    await createNounTable(db, types, {
      table: 'credentials',
      uniqueNames: true,
      columns: (table) => table.addColumn('sealed', types.text, (column) => column.notNull()),
    })
  },
}
