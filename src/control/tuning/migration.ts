import type { Migration } from '../store/migrations.ts'
import { createNounTable } from '../store/nouns.ts'

export const tuningMigration: Migration = {
  name: '0600-tuning',
  async up(db, types) {
    const { text, integer } = types
    await createNounTable(db, types, {
      table: 'tuning_files',
      uniqueNames: true,
      columns: (table) =>
        table
          .addColumn('filename', text, (column) => column.notNull())
          .addColumn('purpose', text, (column) => column.notNull())
          .addColumn('bytes', integer, (column) => column.notNull()),
    })
    await createNounTable(db, types, {
      table: 'tunings',
      uniqueNames: true,
      columns: (table) => table.addColumn('state', text, (column) => column.notNull()),
    })
    // The loop asks for those that are not over, every second.
    await db.schema.createIndex('tunings_by_state').on('tunings').columns(['state', 'id']).execute()
  },
}

export const grantsMigration: Migration = {
  name: '0601-tuning-grants',
  async up(db, types) {
    await createNounTable(db, types, {
      table: 'tuning_grants',
      uniqueNames: true,
      columns: (table) =>
        table
          .addColumn('model', types.text, (column) => column.notNull())
          .addColumn('granted', types.text, (column) => column.notNull()),
    })
    // The gateway asks what a project may use that is another's.
    await db.schema
      .createIndex('tuning_grants_by_granted')
      .on('tuning_grants')
      .columns(['granted', 'model', 'id'])
      .execute()
  },
}
