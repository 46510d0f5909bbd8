import type { Migration } from '../store/migrations.ts'
import { createNounTable } from '../store/nouns.ts'

export const datasetsMigration: Migration = {
  name: '0410-datasets',
  async up(db, types) {
    const { text, integer, json } = types
    await createNounTable(db, types, {
      table: 'datasets',
      uniqueNames: true,
      columns: (table) => table.addColumn('latest', integer, (column) => column.notNull()),
    })
    await db.schema.createIndex('datasets_by_deletion').on('datasets').columns(['deleted_at']).execute()
    await db.schema
      .createTable('dataset_versions')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('dataset_id', text, (column) => column.notNull())
      .addColumn('number', integer, (column) => column.notNull())
      .addColumn('digest', text, (column) => column.notNull())
      .addColumn('bytes', integer, (column) => column.notNull())
      .addColumn('files', integer, (column) => column.notNull())
      .addColumn('message', text, (column) => column.notNull())
      .addColumn('link_json', json)
      .addColumn('statistics_json', json)
      .addColumn('created_at', integer, (column) => column.notNull())
      .execute()
    await db.schema
      .createIndex('dataset_versions_by_number')
      .on('dataset_versions')
      .columns(['dataset_id', 'number'])
      .unique()
      .execute()
  },
}
