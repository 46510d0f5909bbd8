/** GET /v1/models/:id */
export interface Model {
  id: string
  object: 'model'
  /** Seconds since 1970. */
  created: number
  owned_by: string
  /** Ours: a fine-tuning job may start from it. */
  fine_tunable?: true
}

/** GET /v1/models */
export interface ModelList {
  object: 'list'
  data: Model[]
}
