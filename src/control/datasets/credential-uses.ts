import type { CredentialUsesIn } from '../credentials/uses.ts'
import type { Store } from '../store/store.ts'
import type { DatasetRow, VersionTables } from './rows.ts'

/** Of datasets whose newest version is a link. */
export function credentialsOfDatasets(store: Store): CredentialUsesIn {
  return async (project) => {
    const rows = await store
      .db<VersionTables & { datasets: DatasetRow }>()
      .selectFrom('datasets')
      .innerJoin('dataset_versions', (join) =>
        join
          .onRef('dataset_versions.dataset_id', '=', 'datasets.id')
          .onRef('dataset_versions.number', '=', 'datasets.latest'),
      )
      .select(['datasets.id', 'datasets.name', 'dataset_versions.link_json'])
      .where('datasets.project_id', '=', project)
      .where('datasets.deleted_at', 'is', null)
      .where('dataset_versions.link_json', 'is not', null)
      .orderBy('datasets.name')
      .execute()
    return rows.flatMap(({ id, name, link_json: link }) =>
      link?.credential === undefined ? [] : [{ credential: link.credential, by: 'dataset', id, name }],
    )
  }
}
