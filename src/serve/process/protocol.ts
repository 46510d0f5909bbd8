import type { DType } from '../../base/dtype.ts'
import type { FromEngine, ToEngine } from '../messages.ts'
import type { SchedulerOptions } from '../options.ts'

/** What the engine process needs to know before it is an engine. */
export interface EngineSetup {
  /** A Hugging Face folder or a GGUF file. */
  modelPath: string
  device?: string
  threads?: number
  quantize?: DType
  /** Cache size in tokens over all requests; chosen from the free memory when absent. */
  cacheTokens?: number
  cacheDtype?: DType
  contextMax?: number
  /** See {@link ModelExecutorOptions.fastNumerics}. */
  fastNumerics?: boolean
  scheduler?: Partial<SchedulerOptions>
  /** A small model with the same tokenizer that runs ahead; it guesses 4 tokens unless `guessesMax` says how many. */
  draftPath?: string
  /** NDJSON, one line an iteration. */
  traceFile?: string
  /** Decisions of the scheduler, for `ropeway replay`. */
  decisionFile?: string
}

export type ToProcess = { type: 'setup'; setup: EngineSetup } | ToEngine
export type FromProcess =
  | { type: 'loading'; share: number }
  /** Something that takes a while and is not loading. */
  | { type: 'note'; text: string }
  | { type: 'drained' }
  | FromEngine
