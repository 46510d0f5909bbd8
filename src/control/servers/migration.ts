import type { Migration } from '../store/migrations.ts'

export const serversMigration: Migration = {
  name: '0120-servers',
  async up(db, { text, integer, json }) {
    await db.schema
      .createTable('servers')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('cluster', text, (column) => column.notNull().unique())
      .addColumn('url', text, (column) => column.notNull())
      .addColumn('gateway_url', text)
      .addColumn('started_at', integer, (column) => column.notNull())
      .addColumn('seen_at', integer, (column) => column.notNull())
      .execute()
    // What all servers of a database must agree about.
    await db.schema
      .createTable('service_facts')
      .addColumn('name', text, (column) => column.primaryKey())
      .addColumn('fact_json', json, (column) => column.notNull())
      .execute()
  },
}
