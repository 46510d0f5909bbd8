import type { Migration } from './migrations.ts'

/** What this room itself keeps. */
export const coreMigration: Migration = {
  name: '0100-core',
  async up(db, { text, integer, json }) {
    await db.schema
      .createTable('events')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('subject_id', text, (column) => column.notNull())
      .addColumn('project_id', text)
      .addColumn('at', integer, (column) => column.notNull())
      .addColumn('kind', text, (column) => column.notNull())
      .addColumn('message', text, (column) => column.notNull())
      .addColumn('details', json, (column) => column.notNull())
      .execute()
    await db.schema.createIndex('events_by_subject').on('events').columns(['subject_id', 'id']).execute()
    await db.schema.createIndex('events_by_project').on('events').columns(['project_id', 'id']).execute()
    await db.schema
      .createTable('leases')
      .addColumn('name', text, (column) => column.primaryKey())
      .addColumn('lease_owner', text, (column) => column.notNull())
      .addColumn('lease_until', integer, (column) => column.notNull())
      .execute()
  },
}
