/**
 * The device as the engine sees it: one call runs the network once over one flattened batch.
 *
 * Shapes: S sequences in this iteration, N = sum of their counts tokens, V vocabulary, W width.
 */

/** One request's share of an iteration. */
export interface SequenceWork {
  /** Block ids of the request's cache, in order; block i holds positions [i*blockTokens, (i+1)*blockTokens). */
  blocks: readonly number[]
  /** Position of the first token that is computed now; positions before it are in the cache. */
  start: number
  /** The tokens to compute, at positions start, start+1, ... Their keys and values go to the cache. */
  tokens: readonly number[]
  /** How many of the last tokens need logits: 0 inside a prompt, 1 when a token is due, more to verify guesses. */
  outputs: number
  /** So many of the last tokens are nobody's: they fill a shape (turns.ts) and write where nobody reads. */
  padding?: number
  /** Its outputs are states instead of logits. */
  states?: boolean
  /** The adapter that computes it, by the id under which it was loaded; the model alone when absent. */
  adapter?: string
}

export interface IterationBatch {
  sequences: readonly SequenceWork[]
}

export interface ExecutorShape {
  vocabularySize: number
  /** Longest context the model takes, prompt and output together. */
  contextMax: number
  blockTokens: number
  blockCount: number
}

export interface IterationOutput {
  /**
   * Logits of row `row`, counting the requested outputs of all sequences in order. Float32, length V.
   * Valid until the next execute().
   */
  logits(row: number): Float32Array
  /** As {@link logits}, of a sequence that wants states: what the head would multiply, behind the last norm; length W. */
  states(row: number): Float32Array
  /**
   * Index of the largest logit of that row, lowest index on ties; cheaper than reading the row. -1 where none is a number,
   * as far as the device tells (ggml's own op does not).
   */
  argmax(row: number): number
  /** Milliseconds inside native code, for the cost model. */
  computeMs: number
}

export interface Executor {
  readonly shape: ExecutorShape
  /** Throws only when the device is broken: every request in the batch then fails. */
  execute(batch: IterationBatch): Promise<IterationOutput>
  /** Whether sequences may name this adapter; absent where the device takes none. */
  hasAdapter?(id: string): boolean
  dispose(): void
}
