import type { Migration } from '../../src/control/store/migrations.ts'

export interface NoteTables {
  notes: { id: string; half: number }
}

export const noteMigration: Migration = {
  name: '0900-notes',
  async up(db, { text, integer }) {
    await db.schema
      .createTable('notes')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('half', integer)
      .execute()
  },
}
