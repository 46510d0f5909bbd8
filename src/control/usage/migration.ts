import type { Migration } from '../store/migrations.ts'

const usageMigration: Migration = {
  name: '0510-usage',
  async up(db, { text, integer, real, json }) {
    // A gateway's own sums, written over again and again: the same write twice changes nothing.
    await db.schema
      .createTable('usage_tokens')
      .addColumn('ledger', text, (column) => column.notNull())
      .addColumn('day', text, (column) => column.notNull())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('key_id', text, (column) => column.notNull())
      .addColumn('model', text, (column) => column.notNull())
      .addColumn('requests', integer, (column) => column.notNull())
      .addColumn('prompt', integer, (column) => column.notNull())
      .addColumn('cached', integer, (column) => column.notNull())
      .addColumn('output', integer, (column) => column.notNull())
      .addPrimaryKeyConstraint('usage_tokens_key', ['ledger', 'day', 'project_id', 'key_id', 'model'])
      .execute()
    await db.schema
      .createIndex('usage_tokens_by_project')
      .on('usage_tokens')
      .columns(['project_id', 'day'])
      .execute()
    await db.schema.createIndex('usage_tokens_by_day').on('usage_tokens').columns(['day']).execute()
    await db.schema
      .createTable('usage_devices')
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('day', text, (column) => column.notNull())
      .addColumn('subject_id', text, (column) => column.notNull())
      .addColumn('name', text, (column) => column.notNull())
      .addColumn('device', text, (column) => column.notNull())
      .addColumn('device_ms', integer, (column) => column.notNull())
      .addPrimaryKeyConstraint('usage_devices_key', ['project_id', 'day', 'subject_id', 'device'])
      .execute()
    await db.schema
      .createTable('prices')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('price_json', json, (column) => column.notNull())
      .execute()
    await db.schema
      .createTable('budgets')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('key_id', text)
      .addColumn('per', text, (column) => column.notNull())
      .addColumn('tokens', integer)
      .addColumn('cost', real)
      .execute()
    await db.schema.createIndex('budgets_by_project').on('budgets').columns(['project_id', 'id']).execute()
  },
}

/** Budgets bound the time of devices too. */
const deviceBudgetsMigration: Migration = {
  name: '0515-device-budgets',
  async up(db, { real }) {
    await db.schema.alterTable('budgets').addColumn('device_hours', real).execute()
  },
}

export const usageMigrations: readonly Migration[] = [usageMigration, deviceBudgetsMigration]
