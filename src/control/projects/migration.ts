import type { Migration } from '../store/migrations.ts'

export const projectsMigration: Migration = {
  name: '0210-projects',
  async up(db, { text, integer }) {
    for (const table of ['organisations', 'projects']) {
      const base = db.schema
        .createTable(table)
        .addColumn('id', text, (column) => column.primaryKey())
        // One name space for the whole service, so that a name alone says which.
        .addColumn('name', text, (column) => column.notNull().unique())
        .addColumn('title', text, (column) => column.notNull())
        .addColumn('version', integer, (column) => column.notNull())
        .addColumn('created_at', integer, (column) => column.notNull())
        .addColumn('updated_at', integer, (column) => column.notNull())
      await (table === 'projects'
        ? base.addColumn('organisation_id', text, (column) => column.notNull().references('organisations.id'))
        : base
      ).execute()
    }
    await db.schema
      .createIndex('projects_by_organisation')
      .on('projects')
      .columns(['organisation_id', 'id'])
      .execute()
    await db.schema
      .createTable('organisation_members')
      .addColumn('organisation_id', text, (column) => column.notNull().references('organisations.id'))
      .addColumn('person_id', text, (column) => column.notNull().references('people.id'))
      .addColumn('role', text, (column) => column.notNull())
      .addColumn('since', integer, (column) => column.notNull())
      .addPrimaryKeyConstraint('organisation_members_key', ['organisation_id', 'person_id'])
      .execute()
    await db.schema
      .createTable('project_members')
      .addColumn('project_id', text, (column) =>
        column.notNull().references('projects.id').onDelete('cascade'),
      )
      .addColumn('person_id', text, (column) => column.notNull().references('people.id'))
      .addColumn('role', text, (column) => column.notNull())
      .addColumn('since', integer, (column) => column.notNull())
      .addPrimaryKeyConstraint('project_members_key', ['project_id', 'person_id'])
      .execute()
    for (const table of ['organisation_members', 'project_members'])
      await db.schema.createIndex(`${table}_by_person`).on(table).columns(['person_id']).execute()
    await db.schema
      .createTable('invitations')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('token_sha256', text, (column) => column.notNull().unique())
      .addColumn('email', text, (column) => column.notNull())
      .addColumn('organisation_id', text, (column) => column.notNull().references('organisations.id'))
      .addColumn('organisation_role', text, (column) => column.notNull())
      .addColumn('project_id', text, (column) => column.references('projects.id').onDelete('cascade'))
      .addColumn('project_role', text)
      .addColumn('invited_by', text, (column) => column.notNull().references('people.id'))
      .addColumn('created_at', integer, (column) => column.notNull())
      .addColumn('expires_at', integer, (column) => column.notNull())
      .addColumn('accepted_at', integer)
      .execute()
    await db.schema
      .createIndex('invitations_by_organisation')
      .on('invitations')
      .columns(['organisation_id', 'id'])
      .execute()
  },
}
