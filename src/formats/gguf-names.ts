import { assert } from '../base/assert.ts'

/**
 * The same weights have one name in a Hugging Face checkpoint and another in a GGUF file (llama.cpp,
 * gguf-py/gguf/tensor_mapping.py), and some are stored in another order. This is the dictionary.
 */

interface Naming {
  /** GGUF stem -> Hugging Face stem, outside the layers. */
  readonly model: Readonly<Record<string, string>>
  /** Where Hugging Face keeps layer N: this, N. */
  readonly layers: string
  readonly layer: Readonly<Record<string, string>>
}

const llama: Naming = {
  model: { token_embd: 'model.embed_tokens', output_norm: 'model.norm', output: 'lm_head' },
  layers: 'model.layers.',
  layer: {
    attn_norm: 'input_layernorm',
    attn_q: 'self_attn.q_proj',
    attn_k: 'self_attn.k_proj',
    attn_v: 'self_attn.v_proj',
    attn_output: 'self_attn.o_proj',
    ffn_norm: 'post_attention_layernorm',
    ffn_gate: 'mlp.gate_proj',
    ffn_up: 'mlp.up_proj',
    ffn_down: 'mlp.down_proj',
  },
}

/** Of layers with a mixture of experts; each of its products is one tensor for all experts. */
const mixture = {
  ffn_gate_inp: 'mlp.gate',
  ffn_gate_exps: 'mlp.experts.gate_proj',
  ffn_up_exps: 'mlp.experts.up_proj',
  ffn_down_exps: 'mlp.experts.down_proj',
}

/** Hugging Face has nothing behind its name. */
const sinks = 'self_attn.sinks'

const normedHeads = { attn_q_norm: 'self_attn.q_norm', attn_k_norm: 'self_attn.k_norm' }

const namings: Readonly<Record<string, Naming>> = {
  // Mixtral is Llama's there, with experts.
  llama: { ...llama, layer: { ...llama.layer, ...mixture } },
  mistral: llama,
  qwen2: llama,
  qwen3: { ...llama, layer: { ...llama.layer, ...normedHeads } },
  qwen3moe: { ...llama, layer: { ...llama.layer, ...normedHeads, ...mixture } },
  granite: llama,
  granitemoe: { ...llama, layer: { ...llama.layer, ...mixture } },
  olmoe: { ...llama, layer: { ...llama.layer, ...normedHeads, ...mixture } },
  olmo2: {
    ...llama,
    layer: {
      ...Object.fromEntries(Object.entries(llama.layer).filter(([name]) => !name.endsWith('_norm'))),
      ...normedHeads,
      post_attention_norm: 'post_attention_layernorm',
      post_ffw_norm: 'post_feedforward_layernorm',
    },
  },
  phi3: {
    ...llama,
    layer: {
      attn_norm: 'input_layernorm',
      attn_qkv: 'self_attn.qkv_proj',
      attn_output: 'self_attn.o_proj',
      ffn_norm: 'post_attention_layernorm',
      ffn_up: 'mlp.gate_up_proj',
      ffn_down: 'mlp.down_proj',
    },
  },
  'gpt-oss': {
    ...llama,
    layer: {
      ...Object.fromEntries(Object.entries(llama.layer).filter(([name]) => name !== 'ffn_norm')),
      ...mixture,
      attn_sinks: sinks,
      post_attention_norm: 'post_attention_layernorm',
    },
  },
  smollm3: llama,
  gemma3: {
    ...llama,
    layer: {
      ...llama.layer,
      ...normedHeads,
      post_attention_norm: 'post_attention_layernorm',
      ffn_norm: 'pre_feedforward_layernorm',
      post_ffw_norm: 'post_feedforward_layernorm',
    },
  },
  gpt2: {
    model: {
      token_embd: 'transformer.wte',
      position_embd: 'transformer.wpe',
      output_norm: 'transformer.ln_f',
      output: 'lm_head',
    },
    layers: 'transformer.h.',
    layer: {
      attn_norm: 'ln_1',
      attn_qkv: 'attn.c_attn',
      attn_output: 'attn.c_proj',
      ffn_norm: 'ln_2',
      ffn_up: 'mlp.c_fc',
      ffn_down: 'mlp.c_proj',
    },
  },
}

/** The GGUF architectures whose names are known here. */
export const ggufArchitectures: readonly string[] = Object.keys(namings)

/** The Hugging Face name of GGUF tensor `name`; undefined for one that has none. */
export function ggufToHuggingFace(architecture: string, name: string): string | undefined {
  const naming = namings[architecture]
  if (naming === undefined) return undefined
  const inLayer = /^blk\.(0|[1-9]\d*)\.(\w+)\.(weight|bias)$/.exec(name)
  if (inLayer !== null) {
    const stem = own(naming.layer, inLayer[2]!)
    if (stem === undefined) return undefined
    return `${naming.layers}${inLayer[1]}.${stem}${stem === sinks ? '' : `.${inLayer[3]}`}`
  }
  const outside = /^(\w+)\.(weight|bias)$/.exec(name)
  const stem = outside === null ? undefined : own(naming.model, outside[1]!)
  return stem === undefined ? undefined : `${stem}.${outside![2]}`
}

/** The GGUF name of Hugging Face tensor `name`; undefined for one that has none. */
export function huggingFaceToGguf(architecture: string, name: string): string | undefined {
  const naming = namings[architecture]
  const parts = /^(.+)\.(weight|bias)$/.exec(name.endsWith(sinks) ? `${name}.weight` : name)
  if (naming === undefined || parts === null) return undefined
  const [, path, kind] = parts as unknown as [string, string, string]
  if (path.startsWith(naming.layers)) {
    const inLayer = /^(0|[1-9]\d*)\.(.+)$/.exec(path.slice(naming.layers.length))
    const stem = inLayer === null ? undefined : keyOf(naming.layer, inLayer[2]!)
    return stem === undefined ? undefined : `blk.${inLayer![1]}.${stem}.${kind}`
  }
  const stem = keyOf(naming.model, path)
  return stem === undefined ? undefined : `${stem}.${kind}`
}

function own(table: Readonly<Record<string, string>>, key: string): string | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined
}

function keyOf(table: Readonly<Record<string, string>>, value: string): string | undefined {
  return Object.keys(table).find((key) => table[key] === value)
}

/** Those whose files have query and key rows in the order of Meta's own code. */
const turnsNeighbours: ReadonlySet<string> = new Set(['llama', 'mistral', 'granite', 'granitemoe', 'smollm3'])

/**
 * For each row of the Hugging Face tensor, the row of the GGUF tensor that holds it; undefined where the
 * order is the same. Rows are whole encoded rows, so this serves quantised types too; a bias has rows of
 * one element. `config` is a config.json, or what `configFromGguf` made.
 *
 * Files of the llama architecture and of some that stand on it keep query and key rows in the order of Meta's own code, which rotates
 * neighbours (2i, 2i+1) where Hugging Face rotates (i, i + width/2) (convert_hf_to_gguf.py, `permute`).
 */
export function ggufRowPermutation(
  architecture: string,
  huggingFaceName: string,
  config: Readonly<Record<string, unknown>>,
): Int32Array | undefined {
  const projection = /\.self_attn\.([qk])_proj\.(weight|bias)$/.exec(huggingFaceName)
  if (!turnsNeighbours.has(architecture) || projection === null) return undefined
  const queryHeads = numberIn(config, 'num_attention_heads')
  assert(queryHeads !== undefined, 'the config of a model with attention has num_attention_heads')
  const heads = projection[1] === 'q' ? queryHeads : (numberIn(config, 'num_key_value_heads') ?? queryHeads)
  const width = numberIn(config, 'head_dim') ?? (numberIn(config, 'hidden_size') ?? 0) / queryHeads
  const rows = new Int32Array(heads * width)
  for (let row = 0; row < rows.length; row++) {
    const inHead = row % width
    const second = inHead >= width / 2 ? 1 : 0
    rows[row] = row - inHead + 2 * (inHead - second * (width / 2)) + second
  }
  return rows
}

function numberIn(config: Readonly<Record<string, unknown>>, key: string): number | undefined {
  const value = config[key]
  return typeof value === 'number' ? value : undefined
}

/** True where GGUF stores the transpose of the Hugging Face tensor: GPT-2's matrices are [inputs, outputs] there. */
export function ggufTransposed(architecture: string, huggingFaceName: string): boolean {
  return architecture === 'gpt2' && /\.(c_attn|c_proj|c_fc)\.weight$/.test(huggingFaceName)
}

/** What the GGUF tensor holds beyond the Hugging Face value: Gemma's norms scale by 1 + weight there, by weight in GGUF. */
export function ggufAdded(architecture: string, huggingFaceName: string): 0 | 1 {
  return architecture === 'gemma3' && /norm\.weight$/.test(huggingFaceName) ? 1 : 0
}
