import type { Migration } from '../store/migrations.ts'

export const keysMigration: Migration = {
  name: '0220-keys',
  async up(db, { text, integer, json }) {
    await db.schema
      .createTable('keys')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('sha256', text, (column) => column.notNull().unique())
      // What is shown of it for ever: enough to recognise, too little to guess.
      .addColumn('shown', text, (column) => column.notNull())
      .addColumn('name', text, (column) => column.notNull())
      .addColumn('person_id', text, (column) => column.notNull().references('people.id'))
      .addColumn('project_id', text, (column) => column.references('projects.id').onDelete('cascade'))
      .addColumn('role_max', text)
      .addColumn('scopes_json', json, (column) => column.notNull())
      .addColumn('limits_json', json, (column) => column.notNull())
      .addColumn('version', integer, (column) => column.notNull())
      .addColumn('created_at', integer, (column) => column.notNull())
      .addColumn('expires_at', integer)
      .addColumn('last_used_at', integer)
      .addColumn('revoked_at', integer)
      .execute()
    await db.schema.createIndex('keys_by_project').on('keys').columns(['project_id', 'id']).execute()
    await db.schema.createIndex('keys_by_person').on('keys').columns(['person_id', 'id']).execute()
  },
}
