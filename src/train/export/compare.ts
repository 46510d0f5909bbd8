/** An export is opened again as a stranger would, and reads the same text as what it was made from. */
import { UserError } from '../../base/errors.ts'
import { openModel } from '../../models/open.ts'
import { plainLayers } from '../../models/plain-layers.ts'
import type { Definition } from '../../models/registry.ts'
import { ropeFactorsOf } from '../../models/rope.ts'
import { loadWeights, Weights } from '../../models/weights.ts'
import { Arena } from '../../runtime/arena.ts'
import type { Device } from '../../runtime/device.ts'
import { Graph } from '../../runtime/graph.ts'
import { SequenceMasks, wholeSequences } from '../attention.ts'
import type { ExportSource } from './source.ts'

/** How far an export may be from its source. */
export interface Bound {
  /** Largest difference of a logit, as a share of the largest logit. */
  logits: number
  /** Largest change of the perplexity, as a share of it, of a text that the model reads better than by guessing. */
  perplexity: number
}

export interface Comparison {
  largestLogitDifference: number
  largestLogit: number
  perplexityBefore: number
  perplexityAfter: number
  /** The source reads the text better than by guessing evenly; if not, it is none of its kind and its perplexity is noise. */
  isItsText: boolean
  tokens: number
  /** Of a mixture of experts: those that differ most, which neither the logits nor the perplexities above are of. */
  tokensLeftOut: number
}

interface Reading {
  /** [tokens, vocabulary] */
  logits: Float32Array
  /** [tokens - 1]: what each token but the first was a surprise by, in nats. */
  nats: Float64Array
}

/** Reads `tokens` with the source's weights, adapter merged, in F32. */
export function readWithSource(source: ExportSource, tokens: Int32Array, device: Device): Reading {
  const { definition } = source.model
  const arena = new Arena(source.specs.length + 1)
  const tensors = new Map(source.specs.map(({ name, shape }) => [name, arena.leaf('F32', shape, name)]))
  const factors = ropeFactorsOf(definition.config)
  if (factors !== undefined) tensors.set('rope_factors', arena.leaf('F32', [factors.length], 'rope_factors'))
  using weights = new Weights([arena], tensors, arena.allocate(device.bufferType).bytes)
  for (const spec of source.specs) tensors.get(spec.name)!.write(source.floats(spec))
  if (factors !== undefined) tensors.get('rope_factors')!.write(factors)
  return read(definition, weights, tokens, device)
}

/** Reads `tokens` with the model at `path`, its weights in the number formats of the file. */
export function readWithModel(path: string, tokens: Int32Array, device: Device): Reading {
  using model = openModel(path)
  using weights = loadWeights(model, device, { asEncoded: true })
  return read(model.definition, weights, tokens, device)
}

function read(definition: Definition, weights: Weights, tokens: Int32Array, device: Device): Reading {
  const { architecture, config } = definition
  const access = { weight: (name: string) => weights.get(name), has: (name: string) => weights.has(name) }
  using graph = new Graph(device, 512 + 128 * config.layers)
  const { ops } = graph
  const ids = graph.input('I32', [tokens.length], 'ids')
  const positions = graph.input('I32', [tokens.length], 'positions')
  const masks = new SequenceMasks(graph, { sequences: 1, tokens: tokens.length, packed: false }, config)
  const logits = graph.output(
    architecture.forward(config, {
      ops,
      tokens: ids,
      positions,
      outputRows: undefined,
      weight: access.weight,
      ...plainLayers(ops, access),
      attend: wholeSequences(ops, 1, tokens.length, masks, config),
    }),
  )
  graph.allocate()
  ids.write(tokens)
  positions.write(tokens.map((_, i) => i))
  masks.writeWhole()
  graph.compute()
  const values = logits.toFloats()
  return { logits: values, nats: natsOf(values, tokens) }
}

function natsOf(logits: Float32Array, tokens: Int32Array): Float64Array {
  const width = logits.length / tokens.length
  return Float64Array.from({ length: tokens.length - 1 }, (_, row) => {
    const scores = logits.subarray(row * width, (row + 1) * width)
    let top = -Infinity
    for (const score of scores) top = Math.max(top, score)
    let sum = 0
    for (const score of scores) sum += Math.exp(score - top)
    return top + Math.log(sum) - scores[tokens[row + 1]!]!
  })
}

/** The share of a mixture's tokens that may choose other experts where two of them are as good for the router. */
export const otherChoices = 0.1

/** Compares what two models make of the same tokens, but for the `leftOut` of them that differ most. */
export function compare(before: Reading, after: Reading, tokens: number, leftOut = 0): Comparison {
  const width = before.logits.length / tokens
  const apart = Float64Array.from({ length: tokens }, (_, row) => {
    let most = 0
    for (let i = row * width; i < (row + 1) * width; i++) {
      const difference = Math.abs(before.logits[i]! - (after.logits[i] ?? Number.NaN))
      most = difference > most || Number.isNaN(difference) ? difference : most
    }
    // What is no number is nobody's other choice: it stays.
    return Number.isFinite(most) ? most : Number.NaN
  })
  const numbers = [...apart.keys()].filter((row) => !Number.isNaN(apart[row]!))
  const most = numbers.sort((a, b) => apart[b]! - apart[a]!).slice(0, leftOut)
  const kept = [...apart.keys()].filter((row) => !most.includes(row))
  const perplexityOf = ({ nats }: Reading) => {
    const rows = kept.filter((row) => row < nats.length)
    return Math.exp(rows.reduce((sum, row) => sum + nats[row]!, 0) / rows.length)
  }
  const perplexityBefore = perplexityOf(before)
  return {
    largestLogitDifference: kept.reduce((largest, row) => Math.max(largest, apart[row]!), 0),
    largestLogit: before.logits.reduce((largest, logit) => Math.max(largest, Math.abs(logit)), 0),
    perplexityBefore,
    perplexityAfter: perplexityOf(after),
    isItsText: perplexityBefore < width,
    tokens,
    tokensLeftOut: most.length,
  }
}

/** Throws a UserError when the comparison is beyond `bound`; a number that is none is beyond every bound. */
export function holdTo(bound: Bound, found: Comparison, what: string): void {
  const logits = found.largestLogitDifference / found.largestLogit
  const perplexity = Math.abs(found.perplexityAfter / found.perplexityBefore - 1)
  if (logits <= bound.logits && (perplexity <= bound.perplexity || !found.isItsText)) return
  const share = (value: number) => `${(value * 100).toPrecision(3)} %`
  throw new UserError(
    `The ${what} export differs too much from its source: logits by ${share(logits)} (at most ${share(bound.logits)}), perplexity by ${share(perplexity)} (at most ${share(bound.perplexity)}). It was removed.`,
    {
      fix: 'Choose a type with more bits, or let both read a text of the kind that the model knows (--text FILE).',
    },
  )
}
