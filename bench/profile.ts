/**
 * What each op of an iteration takes, and what it would take at least: the longer of reading its bytes as fast as a
 * plain read and of its products as fast as byte products in registers (floats: a quarter of that). The same scenes as
 * bench/iterations.ts; what is no op of ours is what ggml and the way between ops take, and the host's own time.
 */
import { UserError } from '../src/base/errors.ts'
import { type OpenModel, openModel } from '../src/models/open.ts'
import type { Weights } from '../src/models/weights.ts'
import { Device } from '../src/runtime/device.ts'
import { Graph } from '../src/runtime/graph.ts'
import { type CallTime, KernelContext, type Kernels, loadKernels } from '../src/runtime/kernels.ts'
import type { SequenceWork } from '../src/serve/executor.ts'
import type { ModelExecutor } from '../src/serve/model-executor.ts'
import { type Bench, type Findings, runFromCommandLine } from './harness/bench.ts'
import { roundedAll } from './harness/comparison.ts'
import { decodes, PlainRead, prompt, Way } from './iterations.ts'

const parameters = {
  threads: { small: 1, large: 2 },
  /** Computations of each scene; the quickest is shown. */
  iterations: { small: 2, large: 15 },
  promptTokens: { small: 24, large: 512 },
  sequences: { small: 3, large: 32 },
  context: { small: 16, large: 256 },
} as const

/** What an op must do at least. */
interface Work {
  bytes: number
  byteProducts: number
  floatProducts: number
}

/** Bytes and products in a millisecond. */
export interface Rates {
  bytes: number
  byteProducts: number
}

const pieceProducts = 3_145_728

/** The products of a layer by what stands around them, which tells their calls apart. */
function nameOf({ op, params }: CallTime): string {
  if (op.startsWith('experts_')) return params.gated ? 'expertsGateUp' : 'expertsDown'
  if (!op.startsWith('linear_')) return op.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
  if (params.gated) return 'gateUp'
  if (params.residual) return 'outDown'
  return params.biased ? 'queryKeyValue' : 'head'
}

/** Of the quickest iteration: what the ops of each name took, what else computed, and the host. */
async function timesOf(executor: ModelExecutor, sequences: readonly SequenceWork[], iterations: number) {
  let quickest: Record<string, number> | undefined
  // A first, unmeasured turn builds the graph and touches the pages.
  await executor.execute({ sequences })
  for (let i = 0; i < iterations; i++) {
    const before = executor.opTimes()
    const startMs = performance.now()
    const output = await executor.execute({ sequences })
    output.argmax(0)
    const wholeMs = performance.now() - startMs
    const ops: Record<string, number> = {}
    for (const [call, time] of executor.opTimes().entries()) {
      const ms = time.ms - (before[call]?.ms ?? 0)
      if (ms > 0) ops[nameOf(time)] = (ops[nameOf(time)] ?? 0) + ms
    }
    const inOps = Object.values(ops).reduce((sum, ms) => sum + ms, 0)
    if (quickest !== undefined && quickest.whole! < wholeMs) continue
    const { computeMs } = output
    quickest = { ...ops, between: computeMs - inOps, host: wholeMs - computeMs, whole: wholeMs }
  }
  return quickest!
}

/** What products and attention of one iteration must do, by the names of their ops. */
function workOf({ definition }: OpenModel, weights: Weights, sequences: readonly SequenceWork[]) {
  const { config, architecture } = definition
  const rows = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0)
  const outputs = sequences.reduce((sum, { outputs }) => sum + outputs, 0)
  const work: Record<string, Work> = {}
  const groups = architecture.products(config)
  // Behind the last attention only rows go on whose logits are wanted.
  const lastLayer = groups.length - (groups.at(-2)!.kind === 'mixed' ? 3 : 4)
  const used = config.mixture?.used ?? 1
  for (const [at, { kind, names }] of groups.entries()) {
    const single = at === groups.length - 1 ? 'head' : kind === 'joined' ? 'queryKeyValue' : 'outDown'
    const multiplied = at >= lastLayer ? outputs : rows
    for (const { group, weight, inputs, outputs, experts } of weights.packed?.find(names) ?? []) {
      const gated = kind === 'gated' || group.kind === 'gated'
      const plain = gated ? 'gateUp' : single
      const name = experts === undefined ? plain : gated ? 'expertsGateUp' : 'expertsDown'
      const entry = (work[name] ??= { bytes: 0, byteProducts: 0, floatProducts: 0 })
      const uses = experts === undefined ? 1 : used
      // Of experts that rows choose without a preference.
      const read = experts === undefined ? 1 : 1 - (1 - used / experts) ** multiplied
      entry.bytes += weight.bytes * read
      entry.byteProducts += inputs * outputs * (gated ? 2 : 1) * uses * multiplied
    }
  }
  // Every query meets each position up to its own, once for the scores and once for the values.
  const { heads, keyValueHeads, headWidth, layers } = config
  let meetings = 0
  let positions = 0
  for (const { start, tokens } of sequences) {
    positions += start + tokens.length
    meetings += tokens.length * start + (tokens.length * (tokens.length + 1)) / 2
  }
  work.pagedAttention = {
    bytes: positions * layers * keyValueHeads * headWidth * 2 * 2,
    byteProducts: 0,
    floatProducts: meetings * layers * heads * headWidth * 2,
  }
  return work
}

/** Byte products by vectors in registers. */
function registersRate(kernels: Kernels, threads: number): number {
  const pieces = 256
  using device = new Device({ device: 'cpu', threads: 1 })
  using context = new KernelContext(kernels, threads)
  using graph = new Graph(device)
  const x = graph.input('F32', [16], 'x')
  const { fn, userdata } = context.call('multiply_bytes', { pieces })
  graph.output(graph.ops.custom('multiply', fn, 'I32', [1], [x], userdata))
  graph.allocate()
  x.write(new Float32Array(16))
  let quickestMs = Number.POSITIVE_INFINITY
  for (let i = 0; i < 5; i++) {
    const startMs = performance.now()
    graph.compute()
    quickestMs = Math.min(quickestMs, performance.now() - startMs)
  }
  return (pieces * pieceProducts) / quickestMs
}

export async function ratesOf(kernels: Kernels, threads: number, bytes: number): Promise<Rates> {
  using read = new PlainRead(kernels, threads, bytes)
  const { perSecond } = await read.side({ iterations: 5, restMs: 0 }, 'perSecond').run(0)
  return { bytes: (bytes * perSecond!) / 1000, byteProducts: registersRate(kernels, threads) }
}

function floorMs(work: Work, rates: Rates): number {
  const products = work.byteProducts + work.floatProducts * 4
  return Math.max(work.bytes / rates.bytes, products / rates.byteProducts)
}

export const profileBench: Bench<typeof parameters> = {
  name: 'profile',
  parameters,
  run: async (wanted, { modelPath, say }): Promise<Findings> => {
    const kernels = loadKernels()
    if (kernels === undefined) throw new UserError('There are no kernels of our own to look at.')
    using model = openModel(modelPath)
    using ours = new Way('ropeway', model, wanted, kernels)
    const rates = await ratesOf(kernels, wanted.threads, ours.weights.bytes)
    const figures: Record<string, number> = {
      plainReadGigabytesPerSecond: rates.bytes / 1e6,
      registersGigaflopsPerSecond: (2 * rates.byteProducts) / 1e6,
    }
    const scenes = {
      [`prompt${wanted.promptTokens}`]: prompt(wanted),
      [`decode${wanted.sequences}`]: decodes(wanted.sequences, wanted),
      decode1: decodes(1, wanted),
    }
    for (const [scene, sequences] of Object.entries(scenes)) {
      const times = await timesOf(ours.executor, sequences, wanted.iterations)
      const work = workOf(model, ours.weights, sequences)
      say(scene)
      for (const [name, ms] of Object.entries(times).sort((a, b) => b[1] - a[1])) {
        const key = `${scene}${name[0]!.toUpperCase()}${name.slice(1)}`
        figures[`${key}Ms`] = ms
        const least = work[name] && floorMs(work[name], rates)
        if (least !== undefined) figures[`${key}FloorMs`] = least
        const beside = least === undefined ? '' : `, at least ${least.toFixed(2)}`
        say(`  ${name}: ${ms.toFixed(2)} ms (${((100 * ms) / times.whole!).toFixed(1)} %)${beside}`)
      }
    }
    return { figures: roundedAll(figures), comparisons: [], chosen: { kernels: ours.executor.kernelSet } }
  },
}

await runFromCommandLine(import.meta.url, profileBench)
