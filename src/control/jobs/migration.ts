import { serversMigration } from '../servers/migration.ts'
import type { Migration } from '../store/migrations.ts'
import { createNounTable } from '../store/nouns.ts'
import { usageMigrations } from '../usage/migration.ts'
import { noticesMigration } from './notices.ts'
import { templatesMigration } from './templates.ts'

const jobsMigration: Migration = {
  name: '0300-jobs',
  async up(db, types) {
    const { text, integer, real } = types
    await createNounTable(db, types, {
      table: 'jobs',
      uniqueNames: false,
      columns: (table) =>
        table
          .addColumn('state', text, (column) => column.notNull())
          .addColumn('since', integer, (column) => column.notNull())
          .addColumn('priority', integer, (column) => column.notNull())
          .addColumn('device_type', text, (column) => column.notNull())
          .addColumn('devices', integer, (column) => column.notNull())
          .addColumn('wanted_cluster', text)
          .addColumn('cluster', text)
          .addColumn('queued_at', integer, (column) => column.notNull())
          .addColumn('not_before', integer, (column) => column.notNull())
          .addColumn('due_at', integer, (column) => column.notNull())
          .addColumn('attempt', integer, (column) => column.notNull())
          .addColumn('run_id', text)
          .addColumn('stop_requested', integer, (column) => column.notNull())
          .addColumn('preempted', integer, (column) => column.notNull()),
    })
    await db.schema.createIndex('jobs_by_due').on('jobs').columns(['state', 'due_at']).execute()
    await db.schema
      .createIndex('jobs_by_turn')
      .on('jobs')
      .columns(['state', 'priority', 'queued_at', 'id'])
      .execute()
    await db.schema.createIndex('jobs_by_state').on('jobs').columns(['project_id', 'state', 'id']).execute()
    await db.schema
      .createTable('job_attempts')
      .addColumn('run_id', text, (column) => column.primaryKey())
      .addColumn('job_id', text, (column) => column.notNull())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('attempt', integer, (column) => column.notNull())
      .addColumn('cluster', text, (column) => column.notNull())
      .addColumn('device_type', text, (column) => column.notNull())
      .addColumn('devices', integer, (column) => column.notNull())
      .addColumn('processes', integer, (column) => column.notNull())
      .addColumn('started_at', integer, (column) => column.notNull())
      .addColumn('ended_at', integer)
      .execute()
    await db.schema
      .createIndex('job_attempts_by_job')
      .on('job_attempts')
      .columns(['job_id', 'attempt'])
      .execute()
    await db.schema
      .createTable('job_metrics')
      .addColumn('job_id', text, (column) => column.notNull())
      .addColumn('name', text, (column) => column.notNull())
      .addColumn('step', integer, (column) => column.notNull())
      .addColumn('at', integer, (column) => column.notNull())
      .addColumn('value', real)
      // NaN and infinities: what the program wrote, where no number can stand.
      .addColumn('text', text)
      .addPrimaryKeyConstraint('job_metrics_key', ['job_id', 'name', 'step'])
      .execute()
    await createNounTable(db, types, { table: 'clusters', uniqueNames: true })
    await createNounTable(db, types, {
      table: 'quotas',
      uniqueNames: true,
      columns: (table) => table.addColumn('devices', integer, (column) => column.notNull()),
    })
  },
}

export const jobMigrations: readonly Migration[] = [
  serversMigration,
  ...usageMigrations,
  jobsMigration,
  noticesMigration,
  templatesMigration,
]
