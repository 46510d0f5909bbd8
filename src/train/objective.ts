/** What a step makes smaller. */
import type { Device } from '../runtime/device.ts'
import type { CallTime } from '../runtime/kernels.ts'
import type { Precision } from '../runtime/op-maker.ts'
import type { Batch } from './batch.ts'
import type { Parameters } from './parameters.ts'

export interface GraphShape {
  sequences: number
  tokens: number
  /** Rows of one batch that can carry a loss, at most; the head is computed for so many. N by default. */
  supervisedMax?: number
  /** Rows hold several documents that must not see one another. */
  packed?: boolean
  /** Forget activations after the forward pass and compute them again when their gradients are due. */
  recompute?: boolean
  /** Bytes of the logits that are in memory at once; the head is computed for so many rows at a time. */
  logitsBytesMax?: number
  /** Use our own products where they are built (the default), or ggml's everywhere. */
  ownKernels?: boolean
  /** How much the even use of a mixture's experts weighs beside the loss; 0 by default. */
  routerBalance?: number
  /** In which numbers our products are multiplied; sums, weights and moments stay F32. F32 by default. */
  precision?: Precision
}

export const shapeDefaults = {
  packed: false,
  recompute: false,
  logitsBytesMax: 128 << 20,
  ownKernels: true,
  routerBalance: 0,
  precision: 'f32',
} as const

/** A loss and, for training, its backward pass, built once and run on every micro-batch. */
export interface LearningGraph extends Disposable {
  /** Bytes between inputs and outputs, activations and the products' own memory included. */
  readonly scratchBytes: number
  /**
   * The batch's summed loss times `scale`; in training, that sum's gradient is added to the parameters' gradients.
   */
  run(batch: Batch, scale: number): Promise<number>
  /** Hears of all micro-batches of a step before the first is run, where their losses depend on one another. */
  prepare?(batches: readonly Batch[]): Promise<void>
  /** Means over what was run since the last call. */
  takeMetrics?(): Record<string, number>
  /** What each of our ops in it has taken so far, where those bring their own threads; nothing may be computing. */
  opTimes?(): CallTime[]
  dispose(): void
}

export interface Objective {
  graph(parameters: Parameters, device: Device, shape: GraphShape, mode: 'train' | 'evaluate'): LearningGraph
  /** How many losses are in the batch: tokens, or pairs. */
  count(batch: Batch): number
}
