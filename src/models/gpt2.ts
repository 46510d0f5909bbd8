/**
 * GPT-2 (Radford 2019): layer norms with biases, learned positions, one product for q, k and v, GELU.
 *
 * N tokens, M output rows, W width, H heads, D = W/H, V vocabulary. Checkpoints store products transposed
 * (Conv1D); in memory they are [outputs, inputs] like all others.
 */
import { UserError } from '../base/errors.ts'
import type { Tensor } from '../runtime/tensor.ts'
import {
  type Architecture,
  type ForwardPass,
  type ModelConfig,
  type ParameterSpec,
  type ProductGroup,
  residualStd,
} from './architecture.ts'
import { ConfigFields } from './config-fields.ts'

export interface Gpt2Config extends ModelConfig {
  /** Biases in products and norms; nanoGPT's configurations leave them out. */
  bias: boolean
}

function parse(source: Record<string, unknown>): Gpt2Config {
  const fields = new ConfigFields(source)
  fields.only('activation_function', ['gelu_new', 'gelu_pytorch_tanh'])
  fields.only('scale_attn_by_inverse_layer_idx', [false])
  fields.only('scale_attn_weights', [true])
  const width = fields.count('n_embd')
  const heads = fields.count('n_head')
  const layers = fields.layers('n_layer')
  if (width % heads !== 0)
    throw new UserError(`config.json: n_head ${heads} does not divide n_embd ${width}.`)
  return {
    modelType: 'gpt2',
    vocabularySize: fields.count('vocab_size'),
    width,
    layers,
    heads,
    keyValueHeads: heads,
    headWidth: width / heads,
    feedForward: fields.count('n_inner', 4 * width),
    contextMax: fields.count('n_positions', 1024),
    normEpsilon: fields.positive('layer_norm_epsilon', 1e-5),
    tied: fields.flag('tie_word_embeddings', true),
    bias: fields.flag('bias', true),
    attention: Array(layers).fill({
      window: undefined,
      rope: undefined,
      scale: 1 / Math.sqrt(width / heads),
    }),
    source,
  }
}

function parameters(config: Gpt2Config): ParameterSpec[] {
  const { width, feedForward, vocabularySize, contextMax, layers, bias } = config
  const std = typeof config.source.initializer_range === 'number' ? config.source.initializer_range : 0.02
  const specs: ParameterSpec[] = [
    { name: 'transformer.wte.weight', shape: [vocabularySize, width], role: 'embedding', init: { std } },
    { name: 'transformer.wpe.weight', shape: [contextMax, width], role: 'embedding', init: { std } },
  ]
  const norm = (name: string) => {
    specs.push({ name: `${name}.weight`, shape: [width], role: 'vector', init: { value: 1 } })
    if (bias) specs.push({ name: `${name}.bias`, shape: [width], role: 'vector', init: { value: 0 } })
  }
  const product = (name: string, outputs: number, inputs: number, spread = std) => {
    const weight = {
      name: `${name}.weight`,
      shape: [outputs, inputs],
      role: 'product',
      init: { std: spread },
    } as const
    specs.push({ ...weight, transposed: true })
    if (bias) specs.push({ name: `${name}.bias`, shape: [outputs], role: 'vector', init: { value: 0 } })
  }
  for (let i = 0; i < layers; i++) {
    const layer = `transformer.h.${i}`
    norm(`${layer}.ln_1`)
    product(`${layer}.attn.c_attn`, 3 * width, width)
    product(`${layer}.attn.c_proj`, width, width, residualStd(std, layers))
    norm(`${layer}.ln_2`)
    product(`${layer}.mlp.c_fc`, feedForward, width)
    product(`${layer}.mlp.c_proj`, width, feedForward, residualStd(std, layers))
  }
  norm('transformer.ln_f')
  if (!config.tied) {
    specs.push({ name: 'lm_head.weight', shape: [vocabularySize, width], role: 'product', init: { std } })
  }
  return specs
}

function forward(config: Gpt2Config, pass: ForwardPass): Tensor {
  const { ops, outputRows } = pass
  const norm = (x: Tensor, name: string) => {
    const scaled = ops.mul(ops.layerNorm(x, config.normEpsilon), pass.weight(`${name}.weight`))
    return config.bias ? ops.add(scaled, pass.weight(`${name}.bias`)) : scaled
  }
  let x: Tensor = ops.add(
    pass.embed(pass.tokens, 'transformer.wte'),
    pass.embed(pass.positions, 'transformer.wpe'),
  ) //                                                                                        [N, W]
  for (let i = 0; i < config.layers; i++) {
    const layer = `transformer.h.${i}`
    let mixed = attention(config, pass, i, norm(x, `${layer}.ln_1`))
    if (i === config.layers - 1 && outputRows !== undefined) {
      // Nothing after the last attention looks at other rows: drop those whose logits nobody asked for.
      mixed = ops.rows(mixed, outputRows) //                                                  [M, W]
      x = ops.rows(x, outputRows)
    }
    x = pass.linear(mixed, `${layer}.attn.c_proj`, { residual: x })
    const inner = ops.gelu(pass.linear(norm(x, `${layer}.ln_2`), `${layer}.mlp.c_fc`))
    x = pass.linear(inner, `${layer}.mlp.c_proj`, { residual: x })
  }
  x = norm(x, 'transformer.ln_f')
  return pass.linear(x, headName(config)) //                                                 [M, V]
}

const headName = (config: Gpt2Config) => (config.tied ? 'transformer.wte' : 'lm_head')

function products(config: Gpt2Config): ProductGroup[] {
  const inLayer = ['attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj']
  const layers = Array.from({ length: config.layers }, (_, i) =>
    inLayer.map((name) => `transformer.h.${i}.${name}`),
  )
  return [...layers.flat(), headName(config)].map((name) => ({ kind: 'single', names: [name] }))
}

function attention(config: Gpt2Config, pass: ForwardPass, layer: number, h: Tensor): Tensor {
  const { ops } = pass
  const { width, heads, headWidth } = config
  const qkv = pass.linear(h, `transformer.h.${layer}.attn.c_attn`) //                        [N, 3W]
  const part = (index: number) => ops.splitRows(ops.slice(qkv, 1, index * width, width), heads, headWidth)
  return pass.attend(layer, part(0), part(1), part(2))
}

export const gpt2: Architecture<Gpt2Config> = { modelType: 'gpt2', parse, parameters, products, forward }
