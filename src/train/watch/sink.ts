/** Where a run can be watched, and what is told there. */

export interface RunStart {
  kind: 'start'
  atMs: number
  /** The same in every life of the run. */
  run: string
  name: string
  steps: number
  stepsDone: number
  /** What the run computes. */
  settings: Record<string, unknown>
}

export interface RunMetrics {
  kind: 'metrics'
  atMs: number
  /** Steps done. */
  step: number
  values: Readonly<Record<string, number>>
}

export interface RunNotice {
  kind: 'fault' | 'checkpoint'
  atMs: number
  step: number
  text: string
}

export interface RunEnd {
  kind: 'end'
  atMs: number
  outcome: 'finished' | 'stopped' | 'failed'
  step: number
  /** The run ended because it did not get better any more. */
  stoppedEarly?: true
  /** Steps of the best checkpoint, where there was one. */
  best?: number
  /** Of a failure. */
  message?: string | undefined
}

/** Times are Unix ms. */
export type RunEvent = RunStart | RunMetrics | RunNotice | RunEnd

export interface Sink {
  /** For messages; tells no secret. */
  readonly name: string
  /** In order, at most `eventsMax` at a time, never two calls at once. What throws is tried again, from the first event. */
  write(events: readonly RunEvent[], signal: AbortSignal): Promise<void>
}
