/** Our native ops and what their fixed parameters mean; native/README.md has the contract of each. */

const linearParams = {
  normed: 'int',
  biased: 'int',
  residual: 'int',
  gated: 'int',
  adapted: 'int',
  epsilon: 'float',
} as const

const expertParams = {
  experts: 'int',
  bySlots: 'int',
  normed: 'int',
  gated: 'int',
  biased: 'int',
  epsilon: 'float',
  limit: 'float',
} as const

/** What gates a gated layer, by the number that the native side reads; `clamped` only experts. */
export const linearGates = { silu: 1, gelu: 2, clamped: 3 } as const

const byExpertParams = { experts: 'int', product: 'int', behind: 'int' } as const

const matmulParams = { aTransposed: 'int', bTransposed: 'int', behind: 'int' } as const

/** What each op's fixed parameters are, in the order in which the native side reads them. */
export const kernelOps = {
  rope_table: { factor: 'float' },
  store_keys_values: {
    rotaryDims: 'int',
    rotaryPairs: 'int',
    normed: 'int',
    epsilon: 'float',
    cacheFormat: 'int',
  },
  paged_attention: { kvHeads: 'int', window: 'int', scale: 'float', cacheFormat: 'int', sinks: 'int' },
  linear_q8: linearParams,
  linear_q8_into_codes: linearParams,
  linear_q8_of_codes: linearParams,
  linear_q4: linearParams,
  linear_q5: linearParams,
  linear_q4s: linearParams,
  linear_q5s: linearParams,
  linear_q4k: linearParams,
  linear_q5k: linearParams,
  linear_q6k: linearParams,
  linear_mx4: linearParams,
  linear_f16: linearParams,
  linear_bf16: linearParams,
  linear_f32: linearParams,
  route: { used: 'int', normalised: 'int' },
  experts_q8: expertParams,
  experts_q4: expertParams,
  experts_q5: expertParams,
  experts_q4s: expertParams,
  experts_q5s: expertParams,
  experts_q4k: expertParams,
  experts_q5k: expertParams,
  experts_q6k: expertParams,
  experts_mx4: expertParams,
  experts_f16: expertParams,
  experts_bf16: expertParams,
  experts_f32: expertParams,
  mix_experts: { experts: 'int' },
  embed: { format: 'int' },
  matmul_f32: matmulParams,
  matmul_bf16: matmulParams,
  matmul_by_expert_f32: byExpertParams,
  matmul_by_expert_bf16: byExpertParams,
  mix_experts_back: { experts: 'int' },
  shares_by_expert_back: { experts: 'int' },
  route_back: { used: 'int', normalised: 'int' },
  argmax: {},
  read_bytes: {},
  multiply_bytes: { pieces: 'int' },
  causal_attention: { sequences: 'int', scale: 'float', pairs: 'int' },
  causal_attention_back: { sequences: 'int', scale: 'float', pairs: 'int' },
  gelu: {},
  gelu_back: {},
  silu_mul_back: { ofUp: 'int' },
  norm: { centred: 'int', epsilon: 'float', weighted: 'int' },
  norm_back: { centred: 'int', epsilon: 'float', weighted: 'int', added: 'int' },
  norm_weight_back: { centred: 'int', epsilon: 'float' },
  sum_over_rows: { product: 'int' },
  square_sum: {},
  adamw: {},
  elementwise: { kind: 'int', into: 'int' },
  affine: { factor: 'float', offset: 'float' },
  silu_mul: {},
  packed: {},
  gather_rows: {},
  scatter_rows: { into: 'int' },
  chosen_shares: {},
  shares_back: {},
  rope_angles: {
    divided: 'int',
    sign: 'int',
    base: 'float',
    scale: 'float',
    mixed: 'float',
    low: 'float',
    high: 'float',
    factor: 'float',
  },
  rope: { pairs: 'int' },
} as const satisfies Record<string, Record<string, 'int' | 'float'>>

export type KernelOp = keyof typeof kernelOps
export type KernelParams<Op extends KernelOp> = { [Name in keyof (typeof kernelOps)[Op]]: number }

/** What becomes of a product of two changing matrices before it is stored (native/matmul.h). */
export const matmulBehind = {
  nothing: 0,
  adds: 1,
  addsInto: 2,
  times: 3,
  gelu: 4,
  addsGelu: 5,
  siluMul: 6,
  siluMulBack: 7,
} as const

/** What is multiplied by experts (native/train_experts.h). */
export const expertProducts = { outputs: 0, inputsBack: 1, weightsBack: 2 } as const

/** What is done with two tensors element by element (native/train_elements.h). */
export const elementwiseKinds = { add: 0, sub: 1, mul: 2, div: 3 } as const

/** How rotary dimensions pair up: i with i + R/2 (GPT-NeoX, Hugging Face) or 2i with 2i + 1 (Llama's own). */
export const rotaryPairs = { halves: 0, neighbours: 1 } as const
