/**
 * Whole iterations of a model by our kernels and by plain ggml (what `ROPEWAY_KERNELS=ggml` serves), in turns: a
 * prompt, a token of each of many sequences, a token of one. Without HTTP, sampling or scheduling: what the
 * executor computes for one plan, prompts with the logits of their last token only.
 */
import { UserError } from '../src/base/errors.ts'
import { type OpenModel, openModel } from '../src/models/open.ts'
import { loadWeights, type Weights } from '../src/models/weights.ts'
import { Device } from '../src/runtime/device.ts'
import { loadKernels } from '../src/runtime/kernels.ts'
import type { SequenceWork } from '../src/serve/executor.ts'
import { ModelExecutor } from '../src/serve/model-executor.ts'
import { type Bench, type Findings, runFromCommandLine, type Values } from './harness/bench.ts'
import { interleave, type Side } from './harness/comparison.ts'

const parameters = {
  pairs: { small: 1, large: 5 },
  threads: { small: 1, large: 2 },
  /** Computations of a turn; the quickest counts. */
  iterations: { small: 1, large: 3 },
  promptTokens: { small: 24, large: 512 },
  sequences: { small: 3, large: 32 },
  context: { small: 16, large: 256 },
} as const

type Wanted = Values<typeof parameters>

const blockTokens = 16

/** One way to compute the model. */
class Way implements Disposable {
  readonly name: string
  readonly executor: ModelExecutor
  readonly #device: Device
  readonly #weights: Weights

  constructor(name: string, model: OpenModel, wanted: Wanted, kernels: ReturnType<typeof loadKernels>) {
    this.name = name
    this.#device = new Device({ device: 'cpu', threads: wanted.threads })
    this.#weights = loadWeights(model, this.#device, { kernels })
    const perSequence = Math.ceil((wanted.context + 1) / blockTokens) * blockTokens
    const cacheTokens = Math.max(wanted.sequences * perSequence, wanted.promptTokens + blockTokens)
    this.executor = new ModelExecutor(model.definition, this.#weights, this.#device, {
      cacheTokens,
      blockTokens,
      kernels: kernels ?? 'ggml',
    })
  }

  side({ iterations }: Wanted, figure: string, sequences: readonly SequenceWork[]): Side {
    const tokens = sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    return {
      name: this.name,
      run: async () => {
        let quickestMs = Number.POSITIVE_INFINITY
        for (let i = 0; i < iterations; i++) {
          const startMs = performance.now()
          await this.executor.execute({ sequences })
          quickestMs = Math.min(quickestMs, performance.now() - startMs)
        }
        return { [figure]: (1000 * tokens) / quickestMs }
      },
    }
  }

  [Symbol.dispose](): void {
    this.executor.dispose()
    this.#weights[Symbol.dispose]()
    this.#device[Symbol.dispose]()
  }
}

function prompt({ promptTokens }: Wanted): SequenceWork[] {
  const blocks = Array.from({ length: Math.ceil(promptTokens / blockTokens) }, (_, block) => block)
  return [{ blocks, start: 0, tokens: Array.from({ length: promptTokens }, (_, i) => i + 1), outputs: 1 }]
}

function decodes(count: number, { context }: Wanted): SequenceWork[] {
  const perSequence = Math.ceil((context + 1) / blockTokens)
  return Array.from({ length: count }, (_, i) => ({
    blocks: Array.from({ length: perSequence }, (_, block) => i * perSequence + block),
    start: context,
    tokens: [i + 1],
    outputs: 1,
  }))
}

export const iterationsBench: Bench<typeof parameters> = {
  name: 'iterations',
  parameters,
  run: async (wanted, { modelPath, say }): Promise<Findings> => {
    const kernels = loadKernels()
    if (kernels === undefined) throw new UserError('There are no kernels of our own to compare.')
    using model = openModel(modelPath)
    using ours = new Way('ropeway', model, wanted, kernels)
    using theirs = new Way('plain ggml', model, wanted, undefined)
    const scenes = {
      [`prompt${wanted.promptTokens}TokensPerSecond`]: prompt(wanted),
      [`decode${wanted.sequences}TokensPerSecond`]: decodes(wanted.sequences, wanted),
      decode1TokensPerSecond: decodes(1, wanted),
    }
    const comparisons = []
    for (const [figure, sequences] of Object.entries(scenes)) {
      const sides = [ours.side(wanted, figure, sequences), theirs.side(wanted, figure, sequences)] as const
      // A first, unmeasured turn builds the graphs and touches the pages.
      for (const side of sides) await side.run(-1)
      comparisons.push(...(await interleave(wanted.pairs, ...sides, say)))
    }
    return { figures: {}, comparisons, chosen: { kernels: ours.executor.kernelSet } }
  },
}

await runFromCommandLine(import.meta.url, iterationsBench)
