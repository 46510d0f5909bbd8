import type { Migration } from '../store/migrations.ts'

export const blobsMigration: Migration = {
  name: '0400-blobs',
  async up(db, { text, integer, json }) {
    await db.schema
      .createTable('blobs')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('digest', text, (column) => column.notNull())
      .addColumn('bytes', integer, (column) => column.notNull())
      .addColumn('part_bytes', integer, (column) => column.notNull())
      .addColumn('key', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      // Empty once the row is on its way out: until then a project has each content once.
      .addColumn('live', integer)
      .addColumn('upload_json', json)
      // 64 characters a part, one after the other.
      .addColumn('part_hashes', text, (column) => column.notNull())
      .addColumn('touched_at', integer, (column) => column.notNull())
      .addColumn('version', integer, (column) => column.notNull())
      .execute()
    await db.schema
      .createIndex('blobs_by_digest')
      .on('blobs')
      .columns(['project_id', 'digest', 'live'])
      .unique()
      .execute()
    await db.schema.createIndex('blobs_by_state').on('blobs').columns(['state', 'touched_at']).execute()
    await db.schema
      .createTable('files')
      .addColumn('owner_id', text, (column) => column.notNull())
      .addColumn('path', text, (column) => column.notNull())
      .addColumn('blob_id', text)
      .addColumn('bytes', integer, (column) => column.notNull())
      .addColumn('digest', text, (column) => column.notNull())
      .addPrimaryKeyConstraint('files_key', ['owner_id', 'path'])
      .execute()
    await db.schema.createIndex('files_by_blob').on('files').columns(['blob_id']).execute()
  },
}
