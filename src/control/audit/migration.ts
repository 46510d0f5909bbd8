import type { Migration } from '../store/migrations.ts'

export const auditMigration: Migration = {
  name: '0230-audit',
  async up(db, { text, integer, json }) {
    await db.schema
      .createTable('audit')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('at', integer, (column) => column.notNull())
      .addColumn('organisation_id', text)
      .addColumn('project_id', text)
      .addColumn('person_id', text)
      // The session or key that was used.
      .addColumn('actor_id', text)
      .addColumn('action', text, (column) => column.notNull())
      .addColumn('subject', text, (column) => column.notNull())
      .addColumn('address', text, (column) => column.notNull())
      .addColumn('request_id', text, (column) => column.notNull())
      .addColumn('details', json, (column) => column.notNull())
      .execute()
    for (const column of ['organisation_id', 'project_id', 'person_id'])
      await db.schema.createIndex(`audit_by_${column}`).on('audit').columns([column, 'id']).execute()
  },
}
