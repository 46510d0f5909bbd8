/**
 * One dial: a number of parameters or a depth says everything about a pre-training run that nobody has an opinion
 * on. Whatever the job file gives itself is kept; docs/decisions.md names the rules and where they were published.
 */
import { statSync } from 'node:fs'
import { z } from 'zod'
import { type FileSource, sourceFiles } from './data/source-files.ts'
import { refused } from './job-refusals.ts'

export interface Derived {
  /** What was asked for. */
  dial: { params: number } | { depth: number }
  /** Numbers of the model, embeddings included. */
  parameters: number
  /** Tokens that the run learns from, repeats included. */
  tokens: number
  /** Arithmetic of the run, 6 per parameter and token. */
  flops: number
  /** Every field that the file left to the dial, by its path. */
  fields: Record<string, unknown>
}

const suffixes: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, b: 1e9 }

const params = z
  .union([z.number(), z.string().regex(/^\d+(\.\d+)?[kmb]?$/i, 'expected a number such as 5M')])
  .transform((value) => {
    if (typeof value === 'number') return value
    const [, digits, suffix] = /^([\d.]+)([kmb]?)$/i.exec(value)!
    return Number(digits) * suffixes[suffix!.toLowerCase()]!
  })
  .refine((value) => value >= 10_000 && value <= 100e9, 'expected 10k to 100B')

/** The fields of a job file that are the dial: one of them, or none. */
export const dial = { params: params.optional(), depth: z.int().min(1).max(96).optional() }

const dialFields = z.looseObject(dial)

type Fields = Readonly<Record<string, unknown>>

/** The job's fields with those filled in that the dial decides; the fields as they are where there is no dial. */
export function dialled(object: unknown, baseFolder: string): { fields: unknown; derived?: Derived } {
  if (!isFields(object) || (object.params === undefined && object.depth === undefined))
    return { fields: object }
  const result = dialFields.safeParse(object)
  if (!result.success) {
    const [issue] = result.error.issues
    throw refused(String(issue!.path[0]), `is not right: ${issue!.message}`)
  }
  const { params: wanted, depth, ...given } = result.data
  if (wanted !== undefined && depth !== undefined)
    throw refused('depth', 'says with another number what params says; give one of them')
  if (isFields(given.model) && 'from' in given.model)
    throw refused(
      wanted === undefined ? 'depth' : 'params',
      'sizes a new model, and model.from names one that is there',
    )
  const dial = wanted === undefined ? { depth: depth! } : { params: wanted }
  const plan = planOf(dial, given, baseFolder)
  const fields: Record<string, unknown> = {}
  const merged = merge(given, plan.fields, fields, '')
  return { fields: merged, derived: { dial, ...plan.size, fields } }
}

/** Width per layer (Kaplan 2020 found the ratio to matter little; nanochat uses 64 for every depth). */
const aspect = 64

function planOf(dial: Derived['dial'], given: Fields, baseFolder: string) {
  const asked = 'depth' in dial ? sizesOfDepth(dial.depth) : sizesOf(dial.params, given)
  const sizes = withOwn(asked, given.model)
  const vocabulary = vocabularyOf(given, 'params' in dial ? dial.params : parametersOf(sizes, 0))
  const parameters = parametersOf(sizes, vocabulary.size)
  const available = dataTokens(given, vocabulary.bytesPerToken, baseFolder)
  const tokens = Math.round(Math.min(tokensPerParameter * parameters, passesMax * available))
  const flops = 6 * parameters * tokens
  const context = typeof given.context === 'number' ? given.context : contextOf(parameters)
  // DeepSeek LLM (Bi 2024), section 3.1: both as power laws of the run's arithmetic.
  const batchTokens = Math.min(0.292 * flops ** 0.3271, tokens / stepsMin)
  const learningRate = Math.min(0.3118 * flops ** -0.125, 0.01)
  const rows = Math.max(1, Math.round(batchTokens / context))
  const batch =
    typeof given.batch === 'number'
      ? given.batch
      : divisorOf(rows, Math.max(1, Math.floor(rowsTokensMax / context)))
  const accumulate = Math.max(1, Math.round(rows / batch))
  const stepTokens = batch * context * accumulate
  const steps = typeof given.steps === 'number' ? given.steps : Math.max(1, Math.round(tokens / stepTokens))
  const every = Math.max(1, Math.round(steps / 10))
  return {
    size: { parameters, tokens: steps * stepTokens, flops },
    fields: {
      model: { architecture: 'llama', ...sizes, tied: true },
      tokenizer: vocabulary.tokenizer,
      context,
      batch,
      accumulate,
      steps,
      optimizer: { learning_rate: Number(learningRate.toPrecision(2)) },
      schedule: scheduleOf(given, steps),
      evaluate: { every },
      checkpoint: { every },
    },
  }
}

/** Warm up, hold, cool down (Hu 2024) over the last fifth (Hägele 2024: 10 to 20 % end where a cosine does). */
function scheduleOf(given: Fields, steps: number): Fields {
  const kind = (isFields(given.schedule) ? given.schedule.kind : undefined) ?? 'wsd'
  return {
    kind,
    warmup_steps: Math.min(2000, Math.max(1, Math.round(0.02 * steps))),
    ...(kind === 'wsd' && { cooldown_steps: Math.max(1, Math.round(0.2 * steps)) }),
  }
}

/** Hoffmann 2022. */
const tokensPerParameter = 20
/** Passes over the data after which it teaches little more (Muennighoff 2023). */
const passesMax = 4
const stepsMin = 100
/** Tokens of one micro-batch. */
const rowsTokensMax = 4096

interface Sizes {
  layers: number
  width: number
  heads: number
}

function sizesOfDepth(layers: number): Sizes {
  const width = aspect * layers
  return { layers, width, heads: headsOf(width) }
}

/** Heads of 64 numbers, or of fewer in narrow models. */
function headsOf(width: number): number {
  const headWidth = [...(width >= 256 ? [64] : []), 32, 16, 8].find((one) => width % one === 0)
  return headWidth === undefined ? 1 : width / headWidth
}

/** The sizes with those that the file itself gives. */
function withOwn(sizes: Sizes, model: unknown): Sizes {
  const own = isFields(model) ? model : {}
  const of = (name: string, otherwise: number) => (typeof own[name] === 'number' ? own[name] : otherwise)
  const width = of('width', sizes.width)
  return { layers: of('layers', sizes.layers), width, heads: of('heads', headsOf(width)) }
}

/** Of all depths and widths, those that come nearest to the number and to the aspect. */
function sizesOf(wanted: number, given: Fields): Sizes {
  let best: { sizes: Sizes; miss: number } | undefined
  for (let layers = 1; layers <= 96; layers++) {
    for (let width = 32; width <= 2 * aspect * layers; width += 32) {
      const sizes = { layers, width, heads: headsOf(width) }
      const total = parametersOf(sizes, vocabularyOf(given, wanted).size)
      const miss = Math.abs(Math.log(total / wanted)) + 0.1 * Math.abs(Math.log(width / (aspect * layers)))
      if (best === undefined || miss < best.miss) best = { sizes, miss }
    }
  }
  return best!.sizes
}

/** Of a Llama without biases whose head is its embedding; see model-config.ts. */
function parametersOf({ layers, width }: Sizes, vocabulary: number): number {
  const inner = 32 * Math.ceil((8 * width) / 3 / 32)
  return vocabulary * width + layers * (4 * width ** 2 + 3 * width * inner + 2 * width) + width
}

function vocabularyOf(
  given: Fields,
  parameters: number,
): { size: number; bytesPerToken: number; tokenizer: unknown } {
  const { tokenizer } = given
  if (tokenizer === 'characters') return { size: 100, bytesPerToken: 1, tokenizer }
  if (isFields(tokenizer) && typeof tokenizer.byte_pairs === 'number')
    return { size: tokenizer.byte_pairs, bytesPerToken: 3.5, tokenizer }
  if (tokenizer !== undefined) return { size: 32_000, bytesPerToken: 4, tokenizer }
  const pieces = parameters < 1.5e6 ? 1024 : parameters < 5e6 ? 2048 : parameters < 30e6 ? 4096 : 16_384
  return { size: pieces, bytesPerToken: 3.5, tokenizer: { byte_pairs: pieces } }
}

function contextOf(parameters: number): number {
  return parameters < 20e6 ? 256 : parameters < 200e6 ? 512 : 1024
}

/** The largest divisor of `rows` up to `most`: accumulation then hits the batch exactly. */
function divisorOf(rows: number, most: number): number {
  for (let divisor = Math.min(rows, most); divisor > most / 2; divisor--)
    if (rows % divisor === 0) return divisor
  return Math.min(rows, most)
}

/** About how many tokens the files hold, from their sizes; endless where the data is not described yet. */
function dataTokens(given: Fields, bytesPerToken: number, baseFolder: string): number {
  const data = isFields(given.data) ? given.data : {}
  const field = data.text === undefined ? 'data.train' : 'data.text'
  const entries = [data.text ?? data.train ?? []].flat()
  const choice = {
    field,
    endings: field === 'data.text' ? /\.(txt|md)$/i : /\.(jsonl|ndjson|json|csv|tsv|txt|md)(\.gz)?$/i,
    endingNames: 'data',
  }
  let bytes = 0
  for (const entry of entries) {
    const source = sourceOf(entry)
    if (source === undefined) return Number.POSITIVE_INFINITY
    for (const file of sourceFiles(source, baseFolder, choice))
      bytes += statSync(file).size * (file.endsWith('.gz') ? 3 : 1)
  }
  const held = typeof data.validation === 'number' ? data.validation : 0.1
  return bytes === 0 ? Number.POSITIVE_INFINITY : (bytes * (1 - held)) / bytesPerToken
}

function sourceOf(entry: unknown): FileSource | undefined {
  if (typeof entry === 'string') return { path: entry }
  if (!isFields(entry)) return undefined
  const match = typeof entry.match === 'string' ? { match: entry.match } : {}
  if (typeof entry.path === 'string') return { path: entry.path, ...match }
  if (typeof entry.package !== 'string') return undefined
  return { package: entry.package, folder: typeof entry.folder === 'string' ? entry.folder : '.', ...match }
}

/** `given` over `derived`; every field that comes from `derived` is noted by its path. */
function merge(given: Fields, derived: Fields, noted: Record<string, unknown>, path: string): Fields {
  const out: Record<string, unknown> = { ...given }
  for (const [name, value] of Object.entries(derived)) {
    const own = given[name]
    const at = path === '' ? name : `${path}.${name}`
    if (isFields(value) && (own === undefined || isFields(own)) && name !== 'tokenizer')
      out[name] = merge(own ?? {}, value, noted, at)
    else if (own === undefined) out[name] = noted[at] = value
  }
  return out
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
