/**
 * The typed border of the engine. The loop lives in a process of its own; these are all the messages that
 * cross, one `progress` message per iteration whatever the number of sequences in it.
 */
import type { Failure } from '../base/errors.ts'
import type { AdapterDesk } from './process/adapter-desk.ts'
import type { Admission, EngineRequest, QueueEstimate, RequestProgress } from './request.ts'

export type { AdapterDesk, PublishedAdapter } from './process/adapter-desk.ts'

export type ToEngine =
  | { type: 'submit'; request: EngineRequest }
  | { type: 'cancel'; id: string }
  | { type: 'gauges'; reply: number }
  /** Asks where a request stands in the queue. */
  | { type: 'queue'; reply: number; id: string }
  /** Load the adapter in this folder under `id`, which requests then name. */
  | { type: 'load_adapter'; reply: number; id: string; folder: string }
  /** No request that was submitted and has not ended names it. */
  | { type: 'unload_adapter'; id: string }
  /** Finish what runs within the limit, take nothing new, then exit. */
  | { type: 'drain'; limitMs: number }

export type FromEngine =
  | { type: 'ready'; info: EngineInfo }
  | { type: 'fatal'; message: string; fix?: string }
  | { type: 'admission'; id: string; admission: Admission }
  | { type: 'progress'; items: readonly RequestProgress[] }
  | { type: 'gauges'; reply: number; gauges: EngineGauges }
  | { type: 'adapter'; reply: number; failure?: { message: string; failure: Failure; fix?: string } }
  /** Without an estimate when the request has started, ended or is unknown. */
  | { type: 'queue'; reply: number; estimate?: QueueEstimate }

export interface EngineInfo {
  model: string
  architecture: string
  parameters: number
  /** Of those, how many a token meets: fewer where there are experts. */
  activeParameters: number
  vocabularySize: number
  /** Numbers in the states of a token, and so in an embedding. */
  width: number
  contextMax: number
  cacheTokens: number
  device: string
  threads: number
  kernels: string
  weightBytes: number
  cacheBytes: number
}

export interface EngineGauges {
  running: number
  waiting: number
  blocksFree: number
  blocksCached: number
  blocksHeld: number
  /** Of the held ones, those that pins keep. */
  blocksPinned?: number
  iterations: number
  promptTokens: number
  cachedTokens: number
  generatedTokens: number
  preemptions: number
  /** Totals in milliseconds since the start: native compute and everything else inside busy iterations. */
  computeMs: number
  hostMs: number
  /** In the draft model, between iterations. */
  draftMs?: number
  /** Tokens that were guessed, and those of them that came true. */
  guessedTokens?: number
  acceptedTokens?: number
}

/**
 * An engine as its clients see it, wherever it runs. `submit` resolves when the engine has taken or refused
 * the request; progress arrives through `listener`, in order, and ends with exactly one `finish`.
 */
export interface EngineClient {
  readonly info: EngineInfo
  submit(request: EngineRequest, listener: (progress: RequestProgress) => void): Promise<Admission>
  cancel(id: string): void
  gauges(): Promise<EngineGauges>
  /** Where a request stands that waits for its first start; undefined for any other. */
  queue(id: string): Promise<QueueEstimate | undefined>
  /** Absent where the engine takes no adapters. */
  readonly adapters?: AdapterDesk
  /** True while new requests are taken. */
  readonly accepting: boolean
  close(limitMs?: number): Promise<void>
}
