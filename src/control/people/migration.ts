import type { Migration } from '../store/migrations.ts'

export const peopleMigration: Migration = {
  name: '0200-people',
  async up(db, { text, integer }) {
    await db.schema
      .createTable('people')
      .addColumn('id', text, (column) => column.primaryKey())
      // In lower case: what people type as their address.
      .addColumn('email', text, (column) => column.notNull().unique())
      .addColumn('name', text, (column) => column.notNull())
      .addColumn('version', integer, (column) => column.notNull())
      .addColumn('created_at', integer, (column) => column.notNull())
      .addColumn('updated_at', integer, (column) => column.notNull())
      .addColumn('disabled_at', integer)
      .addColumn('is_operator', integer, (column) => column.notNull())
      .addColumn('password_hash', text)
      .addColumn('totp_sealed', text)
      .addColumn('totp_confirmed', integer, (column) => column.notNull())
      .addColumn('totp_last_step', integer, (column) => column.notNull())
      .addColumn('oidc_subject', text, (column) => column.unique())
      .execute()
    await db.schema
      .createTable('sessions')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('token_sha256', text, (column) => column.notNull().unique())
      .addColumn('person_id', text, (column) => column.notNull().references('people.id').onDelete('cascade'))
      .addColumn('created_at', integer, (column) => column.notNull())
      .addColumn('expires_at', integer, (column) => column.notNull())
      .addColumn('last_used_at', integer, (column) => column.notNull())
      .addColumn('client', text, (column) => column.notNull())
      .execute()
    await db.schema.createIndex('sessions_by_person').on('sessions').columns(['person_id', 'id']).execute()
    await db.schema
      .createTable('attempts')
      .addColumn('name', text, (column) => column.primaryKey())
      .addColumn('failures', integer, (column) => column.notNull())
      .addColumn('since', integer, (column) => column.notNull())
      .execute()
  },
}
