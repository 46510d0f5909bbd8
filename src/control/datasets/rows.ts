import type { PlaceLink } from '../../api/control/places.ts'
import type { NounRow } from '../store/nouns.ts'

export interface DatasetRow extends NounRow {
  readonly spec: { readonly description: string }
  readonly status: Record<string, never>
  /** Number of the newest version. */
  readonly latest: number
}

/** What a dataset held when somebody said so; never changes, but for statistics that come later. */
export interface VersionRow {
  readonly id: string
  readonly project_id: string
  readonly dataset_id: string
  /** From 1. */
  readonly number: number
  /** Of the list of files (api/control/digest.ts). */
  readonly digest: string
  readonly bytes: number
  readonly files: number
  readonly message: string
  /** Where the files are when they are not ours. */
  readonly link_json: PlaceLink | null
  readonly statistics_json: object | null
  readonly created_at: number
}

export interface VersionTables {
  dataset_versions: VersionRow
}
