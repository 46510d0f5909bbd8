/** The config.json of a new model, in Hugging Face's terms. */
import type { ModelSizes } from './job.ts'
import { type ExpertSizes, expertSizes, isMixture } from './mixture-sizes.ts'

export interface SpecialTokens {
  vocabularySize: number
  bosToken: number | undefined
  eosToken: number | undefined
}

export function modelConfig(
  sizes: ModelSizes,
  context: number,
  tokens: SpecialTokens,
): Record<string, unknown> {
  const shared = {
    vocab_size: tokens.vocabularySize,
    bos_token_id: tokens.bosToken ?? tokens.eosToken ?? null,
    eos_token_id: tokens.eosToken ?? null,
    tie_word_embeddings: sizes.tied,
    initializer_range: 0.02,
    dtype: 'float32',
  }
  switch (sizes.architecture) {
    case 'gpt2':
      return gpt2Config(sizes, context, shared)
    case 'gemma3_text':
      return gemma3Config(sizes, context, shared)
    default:
      return llamaConfig(sizes, context, shared)
  }
}

function gpt2Config(sizes: ModelSizes, context: number, shared: object): Record<string, unknown> {
  return {
    model_type: 'gpt2',
    architectures: [classes.gpt2],
    activation_function: 'gelu_new',
    n_layer: sizes.layers,
    n_embd: sizes.width,
    n_head: sizes.heads,
    n_inner: sizes.feed_forward ?? 4 * sizes.width,
    n_positions: context,
    layer_norm_epsilon: 1e-5,
    bias: sizes.bias,
    ...shared,
  }
}

const classes = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
  phi3: 'Phi3ForCausalLM',
  granite: 'GraniteForCausalLM',
  gemma3_text: 'Gemma3ForCausalLM',
  smollm3: 'SmolLM3ForCausalLM',
  olmo2: 'Olmo2ForCausalLM',
  olmo3: 'Olmo3ForCausalLM',
  mixtral: 'MixtralForCausalLM',
  qwen3_moe: 'Qwen3MoeForCausalLM',
  olmoe: 'OlmoeForCausalLM',
  granitemoe: 'GraniteMoeForCausalLM',
  gpt_oss: 'GptOssForCausalLM',
  gpt2: 'GPT2LMHeadModel',
} as const

/** transformers takes their makers' padding token where a file says nothing, which may lie beyond the vocabulary. */
const withPadding: ReadonlySet<string> = new Set([
  ...['phi3', 'gemma3_text', 'smollm3', 'olmo2', 'olmo3', 'olmoe', 'gpt_oss'],
])

/** What a mixture of experts says beside its network, in the terms of its family. */
const mixtures = {
  mixtral: ({ experts, used }: ExpertSizes) => ({
    ...{ num_local_experts: experts, num_experts_per_tok: used, sliding_window: null },
  }),
  qwen3_moe: ({ experts, used, feedForward }: ExpertSizes & { feedForward: number }) => ({
    ...{ num_experts: experts, num_experts_per_tok: used, norm_topk_prob: true },
    ...{ moe_intermediate_size: feedForward, decoder_sparse_step: 1, mlp_only_layers: [] },
  }),
  olmoe: ({ experts, used }: ExpertSizes) => ({
    ...{ num_experts: experts, num_experts_per_tok: used, norm_topk_prob: false },
  }),
  granitemoe: ({ experts, used }: ExpertSizes) => ({ num_local_experts: experts, num_experts_per_tok: used }),
  // Where nothing is said of positions, they are scaled for 32 times the context of its first training.
  gpt_oss: ({ experts, used }: ExpertSizes) => ({
    ...{ num_local_experts: experts, num_experts_per_tok: used, swiglu_limit: 7, sliding_window: 128 },
    ...{ attention_bias: true, rope_parameters: { rope_type: 'default', rope_theta: 10_000 } },
  }),
} as const

function mixtureConfig(sizes: ModelSizes, feedForward: number) {
  const { architecture } = sizes
  if (!isMixture(architecture)) return {}
  const mixture = mixtures[architecture]
  // OLMoE's: a model that learns from nothing must first learn to use all of its experts.
  return { ...mixture({ ...expertSizes(sizes), feedForward }), router_aux_loss_coef: 0.01 }
}

function llamaConfig(sizes: ModelSizes, context: number, shared: object) {
  // Three matrices of 8/3 the width hold as much as GPT's two of 4 (Shazeer 2020), rounded for kernels.
  const feedForward = sizes.feed_forward ?? 32 * Math.ceil((8 * sizes.width) / 3 / 32)
  return {
    model_type: sizes.architecture,
    architectures: [classes[sizes.architecture]],
    hidden_act: 'silu',
    hidden_size: sizes.width,
    intermediate_size: feedForward,
    num_hidden_layers: sizes.layers,
    num_attention_heads: sizes.heads,
    num_key_value_heads: sizes.key_value_heads ?? sizes.heads,
    head_dim: sizes.width / sizes.heads,
    max_position_embeddings: context,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    ...(sizes.architecture === 'mistral' && { sliding_window: null }),
    ...(sizes.architecture === 'olmo3' && { rope_theta: 500_000 }),
    // Multipliers are for those who tune them: these leave Llama's network.
    ...((sizes.architecture === 'granite' || sizes.architecture === 'granitemoe') && {
      ...{ embedding_multiplier: 1, residual_multiplier: 1, logits_scaling: 1 },
      attention_multiplier: 1 / Math.sqrt(sizes.width / sizes.heads),
    }),
    ...(sizes.architecture === 'phi3' && { sliding_window: null, original_max_position_embeddings: context }),
    ...mixtureConfig(sizes, feedForward),
    ...(withPadding.has(sizes.architecture) && { pad_token_id: null }),
    ...shared,
  }
}

function gemma3Config(sizes: ModelSizes, context: number, shared: object): Record<string, unknown> {
  const { hidden_act: _, ...alike } = llamaConfig(sizes, context, shared)
  return {
    ...alike,
    hidden_activation: 'gelu_pytorch_tanh',
    rms_norm_eps: 1e-6,
    query_pre_attn_scalar: alike.head_dim,
    sliding_window: 512,
    sliding_window_pattern: 6,
    rope_theta: 1_000_000,
    rope_local_base_freq: 10_000,
  }
}
