/**
 * Writes the random-weight 0.5B model that the benchmarks run: Qwen2's shape (24 layers, width 896, 14 heads,
 * 2 key/value heads, feed-forward 4864, vocabulary 151936) in Q8_0. The weights are noise, so its text is
 * too; its speed is that of a trained model. `mixture` has four of the 48 layers of Qwen3-30B-A3B, 128 experts each, and
 * fewer tokens. Usage: tsx bench/make-model.ts OUT.gguf [0.5b|30m|mixture]
 */
import { argv } from 'node:process'
import { pathToFileURL } from 'node:url'
import { bytesOf } from '../src/base/dtype.ts'
import { Random } from '../src/base/random.ts'
import { huggingFaceToGguf } from '../src/formats/gguf-names.ts'
import type { GgufEntry } from '../src/formats/gguf-values.ts'
import { writeGguf } from '../src/formats/gguf-write.ts'
import type { TensorToWrite } from '../src/formats/source.ts'
import { defineModel } from '../src/models/registry.ts'

export interface ModelSize {
  layers: number
  width: number
  heads: number
  keyValueHeads: number
  /** Of an expert, where there are some. */
  feedForward: number
  vocabulary: number
  mixture?: { experts: number; used: number; headWidth: number }
}

export const halfBillion: ModelSize = {
  layers: 24,
  width: 896,
  heads: 14,
  keyValueHeads: 2,
  feedForward: 4864,
  vocabulary: 151936,
}

/** Small enough that half a minute holds hundreds of requests. */
const thirtyMillion: ModelSize = {
  layers: 8,
  width: 512,
  heads: 8,
  keyValueHeads: 2,
  feedForward: 1408,
  vocabulary: 16000,
}

const fourLayersOfMixtures: ModelSize = {
  layers: 4,
  width: 2048,
  heads: 32,
  keyValueHeads: 4,
  feedForward: 768,
  vocabulary: 32000,
  mixture: { experts: 128, used: 8, headWidth: 128 },
}
const sizes: Readonly<Record<string, ModelSize>> = {
  '0.5b': halfBillion,
  '30m': thirtyMillion,
  mixture: fourLayersOfMixtures,
}

/** As GGUF calls it. */
const architectureOf = ({ mixture }: ModelSize) => (mixture === undefined ? 'qwen2' : 'qwen3moe')

export function makeModel(path: string, size: ModelSize = halfBillion): void {
  const definition = defineModel({
    model_type: size.mixture === undefined ? 'qwen2' : 'qwen3_moe',
    vocab_size: size.vocabulary,
    hidden_size: size.width,
    num_hidden_layers: size.layers,
    num_attention_heads: size.heads,
    num_key_value_heads: size.keyValueHeads,
    intermediate_size: size.feedForward,
    max_position_embeddings: 32768,
    rope_theta: 1e6,
    tie_word_embeddings: true,
    ...(size.mixture !== undefined && {
      head_dim: size.mixture.headWidth,
      num_experts: size.mixture.experts,
      num_experts_per_tok: size.mixture.used,
      moe_intermediate_size: size.feedForward,
      norm_topk_prob: true,
    }),
  })
  const random = new Random(7)
  const tensors = definition.architecture.parameters(definition.config).map((spec): TensorToWrite => {
    const name = huggingFaceToGguf(architectureOf(size), spec.name)!
    const elements = spec.shape.reduce((a, b) => a * b, 1)
    if (spec.role === 'vector') {
      const value = 'value' in spec.init ? spec.init.value : 0
      return { name, dtype: 'F32', shape: spec.shape, data: asBytes(new Float32Array(elements).fill(value)) }
    }
    if (spec.role === 'router') {
      const spread = 1 / Math.sqrt(size.width)
      const values = Float32Array.from({ length: elements }, () => spread * random.normal())
      return { name, dtype: 'F32', shape: spec.shape, data: asBytes(values) }
    }
    const bytes = bytesOf('Q8_0', elements)
    const [rows, inputs] = spec.shape as [number, number]
    const shape = spec.experts === undefined ? spec.shape : [spec.experts, rows / spec.experts, inputs]
    return { name, dtype: 'Q8_0', shape, data: () => noise(bytes, inputs, random) }
  })
  writeGguf(path, metadataOf(size), tensors)
}

function asBytes(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer)
}

/** Q8_0 blocks of uniform noise, scaled so that activations keep their size through a product. */
function* noise(bytes: number, inputs: number, random: Random): Generator<Uint8Array> {
  const blockBytes = 34
  const block = new Uint8Array(Math.min(bytes, 4096 * blockBytes))
  const scale = halfOf(1 / (73 * Math.sqrt(inputs)))
  for (let at = 0; at < block.length; at += blockBytes) {
    block[at] = scale & 255
    block[at + 1] = scale >> 8
    for (let i = 2; i < blockBytes; i++) block[at + i] = random.integer(255) - 127
  }
  for (let done = 0; done < bytes; done += block.length) {
    // Turning the piece by some blocks keeps rows from repeating.
    const turn = random.integer(block.length / blockBytes) * blockBytes
    const piece = new Uint8Array(block.length)
    piece.set(block.subarray(turn))
    piece.set(block.subarray(0, turn), block.length - turn)
    yield piece.subarray(0, Math.min(piece.length, bytes - done))
  }
}

function halfOf(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!
  return (((bits >>> 23) - 112) << 10) | ((bits >>> 13) & 0x3ff)
}

function metadataOf(size: ModelSize): Map<string, GgufEntry> {
  const uint = (value: number): GgufEntry => ({ type: 'uint32', value })
  const float = (value: number): GgufEntry => ({ type: 'float32', value })
  const text = (value: string): GgufEntry => ({ type: 'string', value })
  const tokens = vocabularyOf(size.vocabulary)
  const architecture = architectureOf(size)
  const own = (name: string, entry: GgufEntry) => [`${architecture}.${name}`, entry] as const
  const mixture = size.mixture && [
    own('attention.key_length', uint(size.mixture.headWidth)),
    own('attention.value_length', uint(size.mixture.headWidth)),
    own('expert_count', uint(size.mixture.experts)),
    own('expert_used_count', uint(size.mixture.used)),
    own('expert_feed_forward_length', uint(size.feedForward)),
  ]
  return new Map<string, GgufEntry>([
    ['general.architecture', text(architecture)],
    ['general.name', text('random')],
    ['general.file_type', uint(7)],
    own('block_count', uint(size.layers)),
    own('context_length', uint(32768)),
    own('embedding_length', uint(size.width)),
    own('feed_forward_length', uint(size.feedForward)),
    own('attention.head_count', uint(size.heads)),
    own('attention.head_count_kv', uint(size.keyValueHeads)),
    own('attention.layer_norm_rms_epsilon', float(1e-6)),
    own('rope.freq_base', float(1e6)),
    ...(mixture ?? []),
    ['tokenizer.ggml.model', text('gpt2')],
    ['tokenizer.ggml.pre', text('qwen2')],
    ['tokenizer.ggml.tokens', { type: 'array', items: 'string', value: tokens }],
    [
      'tokenizer.ggml.token_type',
      { type: 'array', items: 'int32', value: tokens.map((_, id) => (id === tokens.length - 1 ? 3 : 1)) },
    ],
    ['tokenizer.ggml.merges', { type: 'array', items: 'string', value: ['t h', 'th e'] }],
    ['tokenizer.ggml.eos_token_id', uint(size.vocabulary - 1)],
    ['tokenizer.ggml.bos_token_id', uint(size.vocabulary - 1)],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ])
}

/** GPT-2's characters for the 256 bytes, two merges, and names that no text contains. */
function vocabularyOf(count: number): string[] {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173)
  let spare = 0
  const bytes = Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(printable(byte) ? byte : 256 + spare++),
  )
  const tokens = [...bytes, 'th', 'the']
  while (tokens.length < count - 1) tokens.push(`t${tokens.length}`)
  return [...tokens, '<|end|>']
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href) {
  const [, , path, size = '0.5b'] = argv
  const shape = sizes[size]
  if (path === undefined || shape === undefined)
    throw new Error('usage: tsx bench/make-model.ts OUT.gguf [0.5b|30m|mixture]')
  makeModel(path, shape)
}
