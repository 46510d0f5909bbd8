/** GET /v1/models/:id */
export interface Model {
  id: string
  object: 'model'
  /** Seconds since 1970. */
  created: number
  owned_by: string
}

/** GET /v1/models */
export interface ModelList {
  object: 'list'
  data: Model[]
}
