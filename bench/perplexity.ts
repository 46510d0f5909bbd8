/**
 * What the number formats of weights and cache do to two small models' perplexity on real text: the whole way
 * that serving takes, against the same model in F32 on plain ggml.
 *
 * `--model` names the folder that holds models/ and text/ (shared/data beside the repository).
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { DType } from '../src/base/dtype.ts'
import { UserError } from '../src/base/errors.ts'
import { openModel } from '../src/models/open.ts'
import { loadWeights } from '../src/models/weights.ts'
import { Device } from '../src/runtime/device.ts'
import { type Kernels, kernelStatus } from '../src/runtime/kernels.ts'
import { ModelExecutor } from '../src/serve/model-executor.ts'
import { loadTokenizer } from '../src/tokenizer/tokenizer.ts'
import { type Bench, type Findings, runFromCommandLine, type Values } from './harness/bench.ts'

const parameters = {
  stories: { small: 1, large: 60 },
  tokensMax: { small: 48, large: 256 },
} as const

type Wanted = Values<typeof parameters>

const models = ['stories260K', 'babyllama-char-1M'] as const

/** Weights and cache; the first is what the others are compared with. */
const variants = [
  { weights: 'F32', cache: 'F32' },
  { weights: 'F32', cache: 'F16' },
  { weights: 'F32', cache: 'BF16' },
  { weights: 'F32', cache: 'Q8_0' },
  { weights: 'BF16', cache: 'F16' },
  { weights: 'BF16', cache: 'BF16' },
  { weights: 'Q8_0', cache: 'F16' },
  { weights: 'Q8_0', cache: 'Q8_0' },
  { weights: 'Q4_0', cache: 'F16' },
] as const satisfies readonly { weights: DType; cache: DType }[]

/** The first stories, each from its beginning and as far as `tokensMax`. */
function storiesOf(folder: string, model: string, { stories, tokensMax }: Wanted): number[][] {
  const tokenizer = loadTokenizer(join(folder, 'models', model, 'hf'))
  const text = readFileSync(join(folder, 'text', 'tinystories-val.txt'), 'utf8')
  const first = tokenizer.bosToken === undefined ? [] : [tokenizer.bosToken]
  return text
    .split('<|endoftext|>')
    .slice(1)
    .map((story) => story.trim())
    .filter((story) => story.length > 0)
    .slice(0, stories)
    .map((story) => [...first, ...tokenizer.encode(story)].slice(0, tokensMax))
}

/** Minus the logarithm of what the model gives `token`, summed in double precision. */
function surprise(logits: Float32Array, token: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b))
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0)
  return Math.log(sum) + most - logits[token]!
}

async function perplexityOf(
  folder: string,
  name: string,
  { weights: quantize, cache: cacheDtype }: { weights: DType; cache: DType },
  stories: readonly number[][],
  kernels: Kernels,
): Promise<number> {
  using device = new Device({ device: 'cpu', threads: 1 })
  using model = openModel(join(folder, 'models', name, 'hf'))
  const own = cacheDtype !== 'F32'
  using weights = loadWeights(model, device, { quantize, kernels: own ? kernels : undefined })
  const cacheTokens = Math.max(...stories.map(({ length }) => length)) + 16
  const options = { cacheTokens, cacheDtype, kernels: own ? kernels : ('ggml' as const) }
  const executor = new ModelExecutor(model.definition, weights, device, options)
  try {
    const blocks = Array.from({ length: Math.ceil(cacheTokens / 16) }, (_, i) => i)
    let total = 0
    let count = 0
    for (const tokens of stories) {
      const work = { blocks, start: 0, tokens: tokens.slice(0, -1), outputs: tokens.length - 1 }
      const output = await executor.execute({ sequences: [work] })
      for (let t = 1; t < tokens.length; t++) total += surprise(output.logits(t - 1), tokens[t]!)
      count += tokens.length - 1
    }
    return Math.exp(total / count)
  } finally {
    executor.dispose()
  }
}

async function run(wanted: Wanted, modelPath: string, say: (line: string) => void): Promise<Findings> {
  const status = kernelStatus()
  if (status.kernels === undefined)
    throw new UserError(`There are no kernels: ${status.reason}.`, { fix: status.fix })
  if (!existsSync(join(modelPath, 'text', 'tinystories-val.txt'))) {
    throw new UserError(`${modelPath} has no text/tinystories-val.txt.`, {
      failure: 'not_found',
      fix: 'Give the folder that holds models/ and text/: --model ../shared/data.',
    })
  }
  const figures: Record<string, number> = {}
  for (const model of models) {
    const stories = storiesOf(modelPath, model, wanted)
    figures[`${model} tokens`] = stories.reduce((sum, { length }) => sum + length - 1, 0)
    let reference: number | undefined
    for (const variant of variants) {
      const found = await perplexityOf(modelPath, model, variant, stories, status.kernels)
      const name = `${model} weights ${variant.weights} cache ${variant.cache}`
      figures[`${name} perplexity`] = Number(found.toPrecision(7))
      if (reference === undefined) reference = found
      else figures[`${name} movedPercent`] = Number((100 * (found / reference - 1)).toPrecision(3))
      say(`${name}: ${found.toPrecision(7)} (${(100 * (found / reference - 1)).toFixed(4)} %)`)
    }
  }
  return { figures, comparisons: [], chosen: { kernels: status.kernels.instructionSet } }
}

export const perplexityBench: Bench<typeof parameters> = {
  name: 'perplexity',
  parameters,
  run: (wanted, { modelPath, say }) => run(wanted, modelPath, say),
}

await runFromCommandLine(import.meta.url, perplexityBench)
