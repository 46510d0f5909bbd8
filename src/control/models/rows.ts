import type { CheckpointSpec } from '../../api/control/checkpoints.ts'
import type { RetentionSpec } from '../../api/control/retention.ts'
import type { NounRow } from '../store/nouns.ts'

export interface CheckpointRow extends NounRow {
  readonly spec: CheckpointSpec
  /** What its job measured when it was written. */
  readonly status: { readonly metrics: Readonly<Record<string, number>> }
  readonly job_id: string | null
  readonly job_name: string | null
  readonly step: number
  /** Of its files. */
  readonly digest: string
  readonly bytes: number
  readonly files: number
}

export interface ModelRow extends NounRow {
  readonly spec: { readonly description: string }
  /** Numbers of versions by alias. */
  readonly status: { readonly aliases: Readonly<Record<string, number>> }
  readonly latest: number
}

export interface RetentionRow extends NounRow {
  readonly spec: RetentionSpec
  readonly status: Record<string, never>
}

/** A version of a model is a checkpoint with a number. */
export interface ReleaseRow {
  readonly id: string
  readonly project_id: string
  readonly model_id: string
  readonly number: number
  readonly checkpoint_id: string
  readonly message: string
  readonly created_at: number
}

export interface ReleaseTables {
  model_versions: ReleaseRow
}
