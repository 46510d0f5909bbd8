/** One micro-batch: B sequences of T tokens in rows, N = B*T. */
export interface Batch {
  sequences: number
  tokens: number
  /** [N] */
  ids: Int32Array
  /** [N]; each document starts at 0. */
  positions: Int32Array
  /** [N]: the token that follows. */
  targets: Int32Array
  /** [N]: how much each target counts; 0 is not trained. */
  weights: Float32Array
  /** [N]: which document of its row a token is in; undefined when every row is one. */
  documents?: Int32Array
}

/** A batch in which nothing lies yet: no token belongs to a document, no target counts. */
export function emptyBatch(sequences: number, tokens: number): Required<Batch> {
  const size = sequences * tokens
  return {
    sequences,
    tokens,
    ids: new Int32Array(size),
    positions: new Int32Array(size),
    targets: new Int32Array(size),
    weights: new Float32Array(size),
    documents: new Int32Array(size).fill(-1),
  }
}

/** How many targets of the batch count. */
export function supervisedCount(batch: Batch): number {
  return batch.weights.reduce((count, weight) => count + (weight === 0 ? 0 : 1), 0)
}

/** Where batches come from. The batch of a place in the order depends on nothing else. */
export interface BatchSource {
  /** Micro-batch number `index` of the whole run, counted from 0. */
  at(index: number): Batch
  /**
   * Makes the micro-batches of a step from the weights as they are, where they depend on those; tells what was measured
   * meanwhile. Called once before a step asks for them.
   */
  prepare?(step: number): Promise<Readonly<Record<string, number>>>
  /** Where the samples of that micro-batch stand, for people. */
  samplesAt?(index: number): string[]
}
