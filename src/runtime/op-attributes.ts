/** The closed set of operations, by name, and what each carries besides its inputs. */
export interface RopeAttributes {
  /** How many of the innermost elements turn; the rest pass through. */
  dimensions: number
  /** 'neox' pairs i with i+dimensions/2 (Hugging Face), 'interleaved' pairs 2i with 2i+1 (GGUF llama). */
  layout: 'neox' | 'interleaved'
  base: number
  /** Multiplies positions; 1/factor for linear and YaRN scaling. */
  scale: number
  /** YaRN (Peng et al. 2023); extFactor 0 switches it off. */
  contextOriginal: number
  extFactor: number
  attnFactor: number
  betaFast: number
  betaSlow: number
}

/** What each op carries besides its inputs. The keys are the closed set of ops. */
export interface OpAttributes {
  leaf: { name: string }
  add: object
  sub: object
  mul: object
  div: object
  accumulate: object
  scale: { factor: number }
  affine: { factor: number; offset: number }
  fill: { value: number }
  sqr: object
  sqrt: object
  log: object
  exp: object
  sigmoid: object
  softplus: object
  sum: object
  sumRows: object
  repeat: object
  repeatBack: object
  concat: { dimension: number }
  silu: object
  siluBack: object
  gelu: object
  tanh: object
  siluMul: object
  clampedGate: { limit: number }
  clamp: { low: number; high: number }
  step: object
  rmsNorm: { epsilon: number }
  rmsNormBack: { epsilon: number }
  layerNorm: { epsilon: number }
  /**
   * `aside`: of few inputs, and added to another product (an adapter's to its base). `precise`: in F32 also where other products
   * are in bfloat16.
   */
  matmul: { aside: boolean; precise?: true }
  outerProduct: object
  softmax: { scale: number }
  softmaxBack: { scale: number }
  rope: RopeAttributes
  ropeBack: RopeAttributes
  rows: object
  rowsBack: object
  setRows: object
  contiguous: object
  cast: object
  copy: object
  reshape: object
  slice: { dimension: number; start: number }
  splitRows: object
  window: { offset: number }
  permute: { order: readonly number[] }
  transposed: object
  argmax: object
  argsort: object
  expertProduct: { experts: number }
  expertBias: object
  route: { used: number; normalised: boolean }
  routeBack: object
  /** What is added to the gradient of logits on their way back: a LogitSlope (train/gradients.ts). */
  balanced: { slope: object }
  byExpert: { experts: number; product: 'outputs' | 'inputsBack' | 'weightsBack' }
  mixExperts: { experts: number }
  mixExpertsBack: object
  sharesByExpertBack: object
  detached: object
  attention: { scale: number }
  causalAttention: { sequences: number; scale: number }
  causalAttentionBack: object
  geluBack: object
  siluMulBack: object
  layerNormBack: { epsilon: number }
  sumOverRows: object
  squareSums: object
  chosenShares: object
  chosenSharesBack: object
  adamw: object
  custom: { name: string }
}

export type OpName = keyof OpAttributes
