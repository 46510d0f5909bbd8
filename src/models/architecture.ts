/**
 * What an architecture says about itself. One file per architecture, named by its `model_type`; the same
 * definition serves and trains, because attention and linear layers are handed in.
 *
 * N tokens of the flattened batch, W width, H heads, G key/value heads, D head width, V vocabulary.
 */
import type { TensorSource, TensorToWrite } from '../formats/source.ts'
import type { StoredPart } from '../formats/stacked-source.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { RopeScaling } from './rope.ts'

/** What attention does in one layer, products and norms apart. Layers that do the same hold the same object. */
export interface LayerAttention {
  /** A token attends to itself and so many less one before it; undefined attends to all. */
  window: number | undefined
  /** How queries and keys are turned by their positions; undefined leaves them. */
  rope: RopeScaling | undefined
  /** Multiplies the scores of queries and keys. */
  scale: number
}

export interface ModelConfig {
  modelType: string
  vocabularySize: number
  /** W */
  width: number
  layers: number
  /** H */
  heads: number
  /** G */
  keyValueHeads: number
  /** D */
  headWidth: number
  /** F of the layers without a mixture of experts. */
  feedForward: number
  contextMax: number
  normEpsilon: number
  /** The head reuses the embedding. */
  tied: boolean
  /** Of each layer. */
  attention: readonly LayerAttention[]
  /** What layers have instead of one feed-forward, all or some. */
  mixture?: Mixture | undefined
  /** The config.json that this was read from, kept for saving. */
  source: Record<string, unknown>
}

export interface ParameterSpec {
  /** The checkpoint's own name. */
  name: string
  /** Shape in memory, outermost first; products take [outputs, inputs]. */
  shape: readonly number[]
  /** The checkpoint stores the transpose (GPT-2's Conv1D). */
  transposed?: true
  /** Products can be quantised; embeddings are looked up by row; vectors and what chooses experts ([E, W]) stay F32. */
  role: 'product' | 'embedding' | 'vector' | 'router'
  /** Standard deviation of a fresh normal initialisation, or a constant. */
  init: { std: number } | { value: number }
  /** How many experts lie below one another in it. */
  experts?: number
  /** What of a checkpoint's own tensors lies below one another in it, where they are others. */
  parts?: readonly StoredPart[]
}

/** A feed-forward of which each token uses a few of many. */
export interface Mixture {
  /** E */
  experts: number
  /** K */
  used: number
  /** The shares of the experts used sum to one. */
  normalised: boolean
  /** Gates are gpt-oss's (`clampedGate`), which end at it; others go through SiLU. */
  limit?: number
}

/**
 * Names without `.weight`: router [E, W], gate and up [E*F, W], down [E*W, F], experts below one another. `${name}.bias` is added
 * where the model has one: [E], [E, F], [E, W].
 */
export interface MixtureNames {
  router: string
  gate: string
  up: string
  down: string
}

/** Whether a parameter is F32 whatever the others are stored as. */
export function staysFloat({ role }: ParameterSpec): boolean {
  return role === 'vector' || role === 'router'
}

/** RMS norm in front of products: x / sqrt(mean(x^2) + epsilon) * weight. */
export interface InputNorm {
  weight: Tensor
  epsilon: number
}

/** RMS norms of every head of queries and of keys, in front of their turning (Qwen3): weights [D]. */
export interface HeadNorms {
  query: Tensor
  key: Tensor
  epsilon: number
}

/** What a gate goes through; `gelu` is the tanh form. */
export type GateActivation = 'silu' | 'gelu'

/**
 * The products of a network, at the grain at which a kernel can fuse them with what stands around. A name is
 * that of the weight without `.weight`; `${name}.bias` is added where the model has one.
 */
export interface LinearLayers {
  /** Rows `ids` [N] of the weight: [N, width]. */
  embed(ids: Tensor, name: string): Tensor
  /** norm(x) [N, inputs] times the transposed weight, plus `residual` [N, outputs]. */
  linear(x: Tensor, name: string, around?: { norm?: InputNorm; residual?: Tensor }): Tensor
  /** Several products of one input: [N, outputs] each, rows possibly strided. */
  joined(x: Tensor, names: readonly string[], norm?: InputNorm): Tensor[]
  /**
   * activation(norm(x) times gate) * (norm(x) times up). Where `reader` is named, nothing may read the result but the product
   * of that name: it may lie in memory as that one wants it.
   */
  gated(
    x: Tensor,
    gate: string,
    up: string,
    activation: GateActivation,
    around?: { norm?: InputNorm | undefined; reader?: string },
  ): Tensor
  /** silu(gate) * up by one product that holds both: its first outputs are gate's, as many more are up's. */
  gatedHalves(x: Tensor, both: string, norm?: InputNorm): Tensor
  /**
   * `residual` [N, W] plus what the K experts of each row of norm(x) [N, W] make of it, by their shares: those with the largest
   * logits, of equal ones the first.
   */
  mixed(x: Tensor, names: MixtureNames, mixture: Mixture, norm: InputNorm, residual: Tensor): Tensor
}

/** Which products belong together; serving packs their weights accordingly. */
export type ProductGroup =
  | { kind: 'single'; names: readonly [string] }
  | { kind: 'joined'; names: readonly string[] }
  | { kind: 'gated'; names: readonly [gate: string, up: string] | readonly [both: string] }
  | {
      kind: 'mixed'
      names: readonly [router: string, gate: string, up: string, down: string]
      /** That lie below one another in gate, up and down. */
      experts: number
    }

/** What the model needs from whoever runs it. */
export interface ForwardPass extends LinearLayers {
  ops: Ops
  /** [N] I32. */
  tokens: Tensor
  /** [N] I32. */
  positions: Tensor
  /** Rows whose logits are wanted: [M] I32; undefined wants all N. */
  outputRows: Tensor | undefined
  /** The parameter of that name. */
  weight(name: string): Tensor
  /** True when {@link attend} norms and turns queries and keys itself; else they come normed, and turned by position. */
  attendTurns?: boolean
  /**
   * Causal attention of layer `layer`; q [N, H, D], k and v [N, G, D]; gives [N, H*D]. `norms` only where it turns. `sinks` [H] are
   * scores of their own beside those of every row, without a value (Xiao 2023).
   */
  attend(layer: number, q: Tensor, k: Tensor, v: Tensor, norms?: HeadNorms, sinks?: Tensor): Tensor
}

export interface Architecture<Config extends ModelConfig = ModelConfig> {
  readonly modelType: string
  /**
   * Reads a config.json object; throws a UserError that names the field. `context`: how many tokens will be used of it at
   * most, where that is known to be fewer than it takes.
   */
  parse(config: Record<string, unknown>, context?: number): Config
  parameters(config: Config): ParameterSpec[]
  /** The products that {@link forward} asks for, as it asks for them. */
  products(config: Config): ProductGroup[]
  /** Logits [M, V]. */
  forward(config: Config, pass: ForwardPass): Tensor
  /** The parameters of {@link parameters} out of a folder's tensors, where it holds them in a way of its own. */
  read?(source: TensorSource, config: Config): TensorSource
  /** A folder's tensors out of those parameters, the other way round. */
  written?(parameters: readonly TensorToWrite[], config: Config): TensorToWrite[]
}

/** The different windows of a model's layers. */
export function windowsOf({ attention }: ModelConfig): (number | undefined)[] {
  return [...new Set(attention.map(({ window }) => window))]
}

/** Multiplies every fresh product by depth as GPT-2 does for the layers that write into the residual. */
export function residualStd(std: number, layers: number): number {
  return std / Math.sqrt(2 * layers)
}
