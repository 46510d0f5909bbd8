/**
 * Rotary embeddings and their scalings, as Hugging Face's configurations write them (both `rope_theta` with
 * `rope_scaling` and the newer `rope_parameters`).
 *
 * Sources: RoPE (Su 2021), position interpolation (Chen 2023), YaRN (Peng 2023), Llama 3.1's frequency bands, LongRoPE
 * (Ding 2024).
 */
import { assert } from '../base/assert.ts'
import { UserError } from '../base/errors.ts'
import type { RopeAttributes } from '../runtime/op-attributes.ts'
import { rotaryMix } from '../runtime/rotary.ts'
import { ConfigFields } from './config-fields.ts'

export interface RopeScaling {
  attributes: RopeAttributes
  /** Divisors of the frequencies, one for each pair that turns; undefined leaves them. */
  factors: Float32Array | undefined
  /** What LongRoPE chose the divisors from. */
  long?: LongRope
  /** What YaRN made the divisors from, where ggml's own form of it does not do. */
  yarn?: { factor: number; original: number; betaFast: number; betaSlow: number }
}

/** LongRoPE (Ding 2024): other divisors for contexts longer than those of the first training. */
export interface LongRope {
  short: Float32Array
  long: Float32Array
  /** Tokens up to which the short ones are meant. */
  original: number
}

/**
 * `context`: how many tokens will be used at most. LongRoPE's divisors are chosen by it, once for all that is computed, where
 * transformers chooses by the length of each text: keys that are cached would otherwise have to be turned again.
 */
export function parseRope(
  config: Record<string, unknown>,
  headWidth: number,
  contextMax: number,
  context = contextMax,
): RopeScaling {
  const nested = (config.rope_parameters ?? config.rope_scaling ?? {}) as Record<string, unknown>
  const fields = new ConfigFields({
    rope_theta: config.rope_theta ?? 10000,
    partial_rotary_factor: config.partial_rotary_factor ?? 1,
    ...nested,
    ...(config.original_max_position_embeddings !== undefined && {
      original_max_position_embeddings: config.original_max_position_embeddings,
    }),
  })
  const kind = nested.rope_type ?? nested.type ?? 'default'
  if (headWidth % 2 !== 0)
    throw new UserError(
      `config.json: heads of ${headWidth} dimensions have no rotary positions, which turn pairs.`,
      {
        fix: 'The width of a head (head_dim, or hidden_size by num_attention_heads) must be even.',
      },
    )
  const dimensions = Math.floor(headWidth * fields.number('partial_rotary_factor', 1))
  if (dimensions < 2 || dimensions > headWidth || dimensions % 2 !== 0)
    throw fields.refuse(
      'partial_rotary_factor',
      fields.source.partial_rotary_factor,
      `a share of a head's ${headWidth} dimensions that are an even number`,
    )
  const base = fields.positive('rope_theta')
  const plain: RopeAttributes = {
    dimensions,
    layout: 'neox',
    base,
    scale: 1,
    contextOriginal: contextMax,
    extFactor: 0,
    attnFactor: 1,
    betaFast: 32,
    betaSlow: 1,
  }
  switch (kind) {
    case 'default':
      return { attributes: plain, factors: factorsOf(config, dimensions) }
    case 'linear':
      return { attributes: { ...plain, scale: 1 / fields.positive('factor') }, factors: undefined }
    case 'llama3':
      return { attributes: plain, factors: llama3Factors(fields, dimensions, base) }
    case 'yarn':
      return yarn(fields, plain, contextMax)
    // What Phi-3 called it at first.
    case 'su':
    case 'longrope':
      return longRope(fields, plain, contextMax, Math.min(context, contextMax))
    default:
      throw new UserError(`config.json: rope scaling of type ${JSON.stringify(kind)} is not built.`, {
        fix: 'Built are: default, linear, llama3, yarn, longrope.',
      })
  }
}

/** Divisors of rotary frequencies, where a layer of a model with this configuration has them; all that do have the same. */
export function ropeFactorsOf(config: {
  attention: readonly { rope: RopeScaling | undefined }[]
}): Float32Array | undefined {
  const divisors = new Set(config.attention.flatMap(({ rope }) => rope?.factors ?? []))
  assert(divisors.size <= 1, 'layers with divisors of rotary frequencies share them')
  return [...divisors][0]
}

/**
 * Every scaling turns a pair by an angle in proportion to the position: the R/2 angles per position, and what cosines
 * and sines are multiplied by. As ggml computes them (`rope_yarn` in ggml-cpu/ops.cpp).
 */
export function rotaryAngles({ attributes, factors }: RopeScaling): { angles: Float32Array; factor: number } {
  const { dimensions, base, scale, extFactor } = attributes
  const { low, high, factor } = rotaryMix(attributes)
  const angles = Float32Array.from({ length: dimensions / 2 }, (_, i) => {
    const plain = base ** ((-2 * i) / dimensions) / (factors?.[i] ?? 1)
    const ramp = 1 - Math.min(1, Math.max(0, (i - low) / Math.max(0.001, high - low)))
    const mix = extFactor * ramp
    return plain * (scale * (1 - mix) + mix)
  })
  return { angles, factor }
}

/** GGUF files carry Llama 3.1's divisors as a tensor; the loader leaves them here. */
function factorsOf(config: Record<string, unknown>, dimensions: number): Float32Array | undefined {
  const given = config.rope_factors
  if (given === undefined) return undefined
  assert(given instanceof Float32Array && given.length === dimensions / 2, 'one divisor per frequency')
  return given
}

function llama3Factors(fields: ConfigFields, dimensions: number, base: number): Float32Array {
  const factor = fields.positive('factor')
  const low = fields.positive('low_freq_factor', 1)
  const high = fields.positive('high_freq_factor', 4)
  const original = fields.count('original_max_position_embeddings', 8192)
  return Float32Array.from({ length: dimensions / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * base ** ((2 * i) / dimensions)
    if (wavelength < original / high) return 1
    if (wavelength > original / low) return factor
    const smooth = (original / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
  })
}

/**
 * ggml goes over from the plain angle to the scaled one between whole pairs. Where that is not to be (`truncate: false`), each pair
 * has a divisor of its own.
 */
function yarn(fields: ConfigFields, plain: RopeAttributes, contextMax: number): RopeScaling {
  const original = fields.count('original_max_position_embeddings', contextMax)
  const factor = fields.positive('factor', contextMax / original)
  // ggml multiplies attnFactor by it itself.
  const mscale = 1 + 0.1 * Math.log(factor)
  const attention = yarnAttention(fields, factor)
  const attributes = {
    ...plain,
    scale: 1 / factor,
    contextOriginal: original,
    extFactor: 1,
    attnFactor: attention / mscale,
    betaFast: fields.positive('beta_fast', 32),
    betaSlow: fields.positive('beta_slow', 1),
  }
  if (fields.flag('truncate', true)) return { attributes, factors: undefined }
  const { betaFast, betaSlow } = attributes
  const { low, high } = rotaryMix(attributes, false)
  const factors = Float32Array.from({ length: plain.dimensions / 2 }, (_, i) => {
    const mix = 1 - Math.min(1, Math.max(0, (i - low) / Math.max(0.001, high - low)))
    return 1 / ((1 - mix) / factor + mix)
  })
  return {
    attributes: { ...plain, attnFactor: attention },
    factors,
    yarn: { factor, original, betaFast, betaSlow },
  }
}

/** What cosines and sines are multiplied by, as transformers has it; DeepSeek's files give two weights of how it grows. */
function yarnAttention(fields: ConfigFields, factor: number): number {
  const given = fields.source.attention_factor ?? undefined
  if (given !== undefined) return fields.positive('attention_factor')
  const grown = (weight: number) => (factor <= 1 ? 1 : 1 + 0.1 * weight * Math.log(factor))
  const [own, all] = [fields.number('mscale', 0), fields.number('mscale_all_dim', 0)]
  return own !== 0 && all !== 0 ? grown(own) / grown(all) : grown(1)
}

function longRope(
  fields: ConfigFields,
  plain: RopeAttributes,
  contextMax: number,
  context: number,
): RopeScaling {
  const original = fields.count('original_max_position_embeddings', contextMax)
  const [short, long] = ['short_factor', 'long_factor'].map((field) => {
    const given = fields.source[field]
    const pairs = plain.dimensions / 2
    const isRight =
      Array.isArray(given) && given.length === pairs && given.every((x) => Number.isFinite(x) && x > 0)
    if (!isRight) throw fields.refuse(field, given, `a list of ${pairs} numbers above 0`)
    return Float32Array.from(given as number[])
  }) as [Float32Array, Float32Array]
  const factor = fields.positive('factor', contextMax / original)
  const computed = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
  return {
    attributes: { ...plain, attnFactor: fields.positive('attention_factor', computed) },
    factors: context > original ? long : short,
    long: { short, long, original },
  }
}
