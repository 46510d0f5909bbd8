import type { Migration } from '../store/migrations.ts'
import { createNounTable } from '../store/nouns.ts'

export const modelsMigration: Migration = {
  name: '0420-models',
  async up(db, types) {
    const { text, integer } = types
    await createNounTable(db, types, {
      table: 'checkpoints',
      uniqueNames: true,
      columns: (table) =>
        table
          .addColumn('job_id', text)
          .addColumn('job_name', text)
          .addColumn('step', integer, (column) => column.notNull())
          .addColumn('digest', text, (column) => column.notNull())
          .addColumn('bytes', integer, (column) => column.notNull())
          .addColumn('files', integer, (column) => column.notNull()),
    })
    // Whoever finds a job's checkpoint twice makes one row of it, also after it was deleted.
    await db.schema
      .createIndex('checkpoints_by_job')
      .on('checkpoints')
      .columns(['job_id', 'step'])
      .unique()
      .execute()
    await createNounTable(db, types, {
      table: 'models',
      uniqueNames: true,
      columns: (table) => table.addColumn('latest', integer, (column) => column.notNull()),
    })
    await createNounTable(db, types, { table: 'retention_rules', uniqueNames: true })
    for (const table of ['checkpoints', 'models'])
      await db.schema.createIndex(`${table}_by_deletion`).on(table).columns(['deleted_at']).execute()
    await db.schema
      .createTable('model_versions')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('model_id', text, (column) => column.notNull())
      .addColumn('number', integer, (column) => column.notNull())
      .addColumn('checkpoint_id', text, (column) => column.notNull())
      .addColumn('message', text, (column) => column.notNull())
      .addColumn('created_at', integer, (column) => column.notNull())
      .execute()
    await db.schema
      .createIndex('model_versions_by_number')
      .on('model_versions')
      .columns(['model_id', 'number'])
      .unique()
      .execute()
    await db.schema
      .createIndex('model_versions_by_checkpoint')
      .on('model_versions')
      .columns(['checkpoint_id'])
      .execute()
    await db.schema
      .createTable('lineage')
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('from_id', text, (column) => column.notNull())
      .addColumn('from_label', text, (column) => column.notNull())
      .addColumn('to_id', text, (column) => column.notNull())
      .addColumn('to_label', text, (column) => column.notNull())
      .addColumn('at', integer, (column) => column.notNull())
      .addPrimaryKeyConstraint('lineage_key', ['from_id', 'to_id'])
      .execute()
    await db.schema.createIndex('lineage_by_end').on('lineage').columns(['to_id']).execute()
  },
}
