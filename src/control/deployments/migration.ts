import { sql } from 'kysely'
import type { Migration } from '../store/migrations.ts'
import { createNounTable } from '../store/nouns.ts'

const deploymentsMigration: Migration = {
  name: '0500-deployments',
  async up(db, types) {
    await createNounTable(db, types, {
      table: 'deployments',
      uniqueNames: true,
      columns: (table) =>
        table
          .addColumn('state', types.text, (column) => column.notNull())
          .addColumn('due_at', types.integer, (column) => column.notNull())
          .addColumn('wanted_at', types.integer, (column) => column.notNull())
          .addColumn('ending', types.integer, (column) => column.notNull()),
    })
    await db.schema.createIndex('deployments_by_due').on('deployments').columns(['due_at', 'id']).execute()
    // Clients name a deployment and no project: one address has one of each name.
    await db.schema
      .createIndex('deployments_by_name_alone')
      .on('deployments')
      .column('name')
      .unique()
      .where(sql<boolean>`deleted_at is null`)
      .execute()
  },
}

/** Which server's machine has the replicas: with local launchers only that one can look after them. */
const deploymentClusterMigration: Migration = {
  name: '0501-deployment-cluster',
  async up(db, { text }) {
    await db.schema
      .alterTable('deployments')
      .addColumn('cluster', text, (column) => column.notNull().defaultTo('local'))
      .execute()
  },
}

const publicationsMigration: Migration = {
  name: '0502-publications',
  async up(db, types) {
    await createNounTable(db, types, { table: 'publications', uniqueNames: true })
  },
}

export const deploymentMigrations: readonly Migration[] = [
  deploymentsMigration,
  deploymentClusterMigration,
  publicationsMigration,
]
