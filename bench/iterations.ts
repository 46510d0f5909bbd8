/**
 * Whole iterations of a model by our kernels and by plain ggml (what `ROPEWAY_KERNELS=ggml` serves), in turns: a
 * prompt, a token of each of many sequences, a token of one. Without HTTP, sampling or scheduling: what the
 * executor computes for one plan, prompts with the logits of their last token only. The lone token also stands
 * beside a plain read of as many bytes as the weights have, which is what bounds it.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { UserError } from '../src/base/errors.ts'
import { type OpenModel, openModel } from '../src/models/open.ts'
import { loadWeights, type Weights } from '../src/models/weights.ts'
import { Arena } from '../src/runtime/arena.ts'
import { Device } from '../src/runtime/device.ts'
import { Graph } from '../src/runtime/graph.ts'
import { KernelContext, type Kernels, loadKernels } from '../src/runtime/kernels.ts'
import type { SequenceWork } from '../src/serve/executor.ts'
import { ModelExecutor } from '../src/serve/model-executor.ts'
import { type Bench, type Findings, runFromCommandLine, type Values } from './harness/bench.ts'
import { interleave, type Side } from './harness/comparison.ts'

const parameters = {
  pairs: { small: 1, large: 5 },
  threads: { small: 1, large: 2 },
  /** Computations of a turn; the quickest counts. */
  iterations: { small: 1, large: 3 },
  /** Rest before each turn: ggml's threads poll for up to 0.2 s after their last work, on a core that the other side needs. */
  restMs: { small: 0, large: 400 },
  promptTokens: { small: 24, large: 512 },
  sequences: { small: 3, large: 32 },
  context: { small: 16, large: 256 },
} as const

type Wanted = Values<typeof parameters>
type Sized = Pick<Wanted, 'threads' | 'promptTokens' | 'sequences' | 'context'>
type Timed = Pick<Wanted, 'iterations' | 'restMs'>

const blockTokens = 16

/** One way to compute the model. */
export class Way implements Disposable {
  readonly name: string
  readonly description: string
  readonly executor: ModelExecutor
  readonly #device: Device
  readonly weights: Weights

  constructor(
    name: string,
    model: OpenModel,
    wanted: Sized,
    kernels: ReturnType<typeof loadKernels>,
    device = 'cpu',
  ) {
    this.name = name
    this.#device = new Device({ device, threads: wanted.threads })
    this.description = this.#device.description
    this.weights = loadWeights(model, this.#device, { kernels })
    const perSequence = Math.ceil((wanted.context + 1) / blockTokens) * blockTokens
    const cacheTokens = Math.max(wanted.sequences * perSequence, wanted.promptTokens + blockTokens)
    this.executor = new ModelExecutor(model.definition, this.weights, this.#device, {
      cacheTokens,
      blockTokens,
      kernels: kernels ?? 'ggml',
    })
  }

  side(wanted: Timed, figure: string, sequences: readonly SequenceWork[]): Side {
    const tokens = sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    return quickest(this.name, wanted, figure, tokens, () => this.executor.execute({ sequences }))
  }

  [Symbol.dispose](): void {
    this.executor.dispose()
    this.weights[Symbol.dispose]()
    this.#device[Symbol.dispose]()
  }
}

function quickest(
  name: string,
  { iterations, restMs }: Timed,
  figure: string,
  tokens: number,
  compute: () => Promise<unknown>,
): Side {
  return {
    name,
    run: async () => {
      await delay(restMs)
      let quickestMs = Number.POSITIVE_INFINITY
      for (let i = 0; i < iterations; i++) {
        const startMs = performance.now()
        await compute()
        quickestMs = Math.min(quickestMs, performance.now() - startMs)
      }
      return { [figure]: (1000 * tokens) / quickestMs }
    },
  }
}

/** Reads as many bytes as the weights have, by as many threads and nothing else. */
export class PlainRead implements Disposable {
  readonly #device = new Device({ device: 'cpu', threads: 1 })
  readonly #arena = new Arena(1)
  readonly #context: KernelContext
  readonly #graph: Graph

  constructor(kernels: Kernels, threads: number, bytes: number) {
    this.#context = new KernelContext(kernels, threads)
    const memory = this.#arena.leaf('I8', [Math.ceil(bytes / 256) * 256])
    this.#arena.allocate(this.#device.bufferType)
    kernels.useLargePages(memory, memory.bytes)
    // Pages that were never written would all be the same one.
    const written = new Uint8Array(1 << 20).fill(1)
    for (let at = 0; at < memory.bytes; at += written.length)
      memory.write(written.subarray(0, Math.min(written.length, memory.bytes - at)), at)
    this.#graph = new Graph(this.#device)
    const { fn, userdata } = this.#context.call('read_bytes', {})
    this.#graph.output(this.#graph.ops.custom('read', fn, 'I32', [1], [memory], userdata))
    this.#graph.allocate()
  }

  side(wanted: Timed, figure: string): Side {
    return quickest('plain read of the weights', wanted, figure, 1, () => this.#graph.computeAsync())
  }

  [Symbol.dispose](): void {
    this.#graph.dispose()
    this.#context.dispose()
    this.#arena.dispose()
    this.#device[Symbol.dispose]()
  }
}

export function prompt({ promptTokens }: Pick<Wanted, 'promptTokens'>): SequenceWork[] {
  const blocks = Array.from({ length: Math.ceil(promptTokens / blockTokens) }, (_, block) => block)
  return [{ blocks, start: 0, tokens: Array.from({ length: promptTokens }, (_, i) => i + 1), outputs: 1 }]
}

export function decodes(count: number, { context }: Pick<Wanted, 'context'>): SequenceWork[] {
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
    // One row more than half of them fills no tile: rows behind the last one once took longer than those that are there.
    const uneven = Math.floor(wanted.sequences / 2) + 1
    const scenes = {
      [`prompt${wanted.promptTokens}TokensPerSecond`]: prompt(wanted),
      [`decode${wanted.sequences}TokensPerSecond`]: decodes(wanted.sequences, wanted),
      [`decode${uneven}TokensPerSecond`]: decodes(uneven, wanted),
      decode1TokensPerSecond: decodes(1, wanted),
    }
    const comparisons = []
    for (const [figure, sequences] of Object.entries(scenes)) {
      const sides = [ours.side(wanted, figure, sequences), theirs.side(wanted, figure, sequences)] as const
      // A first, unmeasured turn builds the graphs and touches the pages.
      for (const side of sides) await side.run(-1)
      comparisons.push(...(await interleave(wanted.pairs, ...sides, say)))
    }
    using read = new PlainRead(kernels, wanted.threads, ours.weights.bytes)
    const lone = ours.side(wanted, 'decode1TokensPerSecond', decodes(1, wanted))
    comparisons.push(
      ...(await interleave(wanted.pairs, lone, read.side(wanted, 'decode1TokensPerSecond'), say)),
    )
    const ggml = process.env.ROPEWAY_GGML_CPU ?? 'the best here'
    return { figures: {}, comparisons, chosen: { kernels: ours.executor.kernelSet, ggml } }
  },
}

await runFromCommandLine(import.meta.url, iterationsBench)
