/**
 * What each part of one training step takes, and what it would take at least: products and attention as fast as
 * registers multiply, AdamW as fast as memory is read. The shapes of bench/train-vs-pytorch.ts; bf16 on the wide one and
 * F32 on Shakespeare's, as their bars are, and bf16 on a Llama with grouped heads. Parts inside of products (tiles, packing) are perf's to tell.
 */
import { UserError } from '../src/base/errors.ts'
import { type CallTime, loadKernels } from '../src/runtime/kernels.ts'
import type { Precision } from '../src/runtime/op-maker.ts'
import { type Bench, type Findings, runFromCommandLine } from './harness/bench.ts'
import { roundedAll } from './harness/comparison.ts'
import { type Rates, ratesOf } from './profile.ts'
import { type Shape, shapes, TrainingSide } from './train-vs-pytorch.ts'

const parameters = {
  threads: { small: 1, large: 2 },
  /** Of each shape, in tens for the short ones; the quickest is shown. */
  steps: { small: 2, large: 6 },
  /** 1: a tiny shape in both precisions instead of those with bars. */
  tiny: { small: 1, large: 0 },
} as const

/** The part of a step that a call is of: products by which gradient they make, others by op. */
function partOf({ op, params }: CallTime): string {
  if (op.startsWith('matmul_'))
    return params.aTransposed ? 'productsOfWeights' : params.bTransposed ? 'productsBack' : 'productsForward'
  return op.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
}

/** Of the quickest step: milliseconds by part; `rest` is dispatch, the host and what is no op of ours. */
async function timesOf(side: TrainingSide, steps: number): Promise<Record<string, number>> {
  let quickest: Record<string, number> | undefined
  for (let i = 0; i < steps; i++) {
    const before = side.trainer.opTimes()
    const startedMs = performance.now()
    await side.trainer.step()
    const whole = performance.now() - startedMs
    const parts: Record<string, number> = {}
    for (const [call, time] of side.trainer.opTimes().entries()) {
      const part = partOf(time)
      parts[part] = (parts[part] ?? 0) + time.ms - (before[call]?.ms ?? 0)
    }
    const inOps = Object.values(parts).reduce((sum, ms) => sum + ms, 0)
    if (quickest === undefined || whole < quickest.whole!) quickest = { ...parts, rest: whole - inOps, whole }
  }
  return quickest!
}

/** Milliseconds that arithmetic and memory leave no way around, by part. */
function floorsOf(shape: Shape, precision: Precision, parameterCount: number, rates: Rates) {
  const {
    layers,
    width,
    heads,
    keyValueHeads = heads,
    feedForward,
    vocabulary,
    batch,
    context,
    architecture,
  } = shape
  const tokens = batch * context
  const inMlp = (architecture === 'llama' ? 3 : 2) * width * feedForward
  const inAttention = (2 + (2 * keyValueHeads) / heads) * width * width
  const product = tokens * (layers * (inAttention + inMlp) + vocabulary * width)
  // Every query meets half of its sequence on average; two products forward, five back.
  const attention = (tokens * layers * context * width) / 2
  const products = rates.byteProducts / (precision === 'bf16' ? 2 : 4)
  return {
    productsForward: product / products,
    productsBack: product / products,
    productsOfWeights: product / products,
    causalAttention: (2 * attention) / products,
    causalAttentionBack: (5 * attention) / products,
    // Weight, gradient, mean and square are read, all but the gradient written.
    adamw: (7 * 4 * parameterCount) / rates.bytes,
  }
}

export const profileTraining: Bench<typeof parameters> = {
  name: 'profile-training',
  parameters,
  run: async ({ threads, steps, tiny }, { say }): Promise<Findings> => {
    const kernels = loadKernels()
    if (kernels === undefined) throw new UserError('There are no kernels of our own to look at.')
    const rates = await ratesOf(kernels, threads, tiny ? 1 << 20 : 1 << 28)
    const figures: Record<string, number> = {
      plainReadGigabytesPerSecond: rates.bytes / 1e6,
      registersGigaflopsPerSecondBf16: rates.byteProducts / 1e6,
    }
    const scenes: [string, Precision, number][] = tiny
      ? [
          ['small', 'bf16', steps],
          ['small', 'f32', steps],
        ]
      : [
          ['gpt2', 'bf16', steps],
          ['grouped', 'bf16', 3 * steps],
          ['shakespeare', 'f32', 10 * steps],
        ]
    for (const [name, precision, count] of scenes) {
      const shape = shapes[name]!
      using side = new TrainingSide(shape, threads, precision)
      await side.warmUp()
      const times = await timesOf(side, count)
      const floors: Record<string, number> = floorsOf(shape, precision, side.parameterCount, rates)
      say(`${name} in ${precision}`)
      for (const [part, ms] of Object.entries(times).sort((a, b) => b[1] - a[1])) {
        const key = `${name}${precision === 'bf16' ? 'Bf16' : 'F32'}${part[0]!.toUpperCase()}${part.slice(1)}`
        figures[`${key}Ms`] = ms
        if (part in floors) figures[`${key}FloorMs`] = floors[part]!
        const beside = part in floors ? `, at least ${floors[part]!.toFixed(2)}` : ''
        say(`  ${part}: ${ms.toFixed(2)} ms (${((100 * ms) / times.whole!).toFixed(1)} %)${beside}`)
      }
    }
    return { figures: roundedAll(figures), comparisons: [] }
  },
}

await runFromCommandLine(import.meta.url, profileTraining)
