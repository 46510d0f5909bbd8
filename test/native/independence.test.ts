/**
 * Whatever the op: a row's bits do not depend on the rows beside it nor on threads, at widths that are no multiple of
 * anything. Leaving an op out of the table does not compile. What an op computes is tested beside its reference.
 */
import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { type KernelOp, kernelOps } from '../../src/runtime/kernel-ops.ts'
import {
  batchTableWordsMax,
  KernelContext,
  type Kernels,
  writeBatchTable,
} from '../../src/runtime/kernels.ts'
import {
  everyKernels,
  type FakeTensor,
  fakeTensor,
  relativeError,
  runOp,
  sameBits,
  stridedTensor,
} from './tensors.ts'

/** An op whose result has a row for each row of its sources; those of `shared` come behind and serve all rows. */
interface ByRow {
  params: Record<string, number>
  /** Columns of the sources that have rows. */
  widths: readonly number[]
  /** Lengths of the sources that all rows share. */
  shared?: readonly (readonly number[])[]
  outputs: number
  integers?: true
}

/** Sums over rows: the same bits on any number of threads. */
interface OverRows {
  params: Record<string, number>
  sources: readonly (readonly number[])[]
  shape: readonly number[]
}

/** An op whose sources are made for `count` of its rows from `first` on; each has so many outputs. */
interface Made {
  params: Record<string, number>
  outputs: number
  sources(first: number, count: number): FakeTensor[]
  /** Of the result for so many rows; [rows, outputs] when absent. */
  shape?(count: number): readonly number[]
  /** The sources that it writes into, where that is its result. */
  into?: readonly number[]
}

type Rule =
  | { byRow: readonly ByRow[] }
  | { made: readonly Made[] }
  | { overRows: readonly OverRows[] }
  | { in: string }

const rows = 7
/** Rows `first`.. of a matrix of noise. */
const part = (width: number, seed: number) => {
  const all = noise(rows * width, seed)
  return (first: number, count: number) =>
    fakeTensor(all.slice(first * width, (first + count) * width), [count, width])
}
/** A number for each row. */
const named = (numberOf: (row: number, within: number) => number) => (first: number, count: number) =>
  fakeTensor(
    Int32Array.from({ length: count }, (_, i) => numberOf(first + i, i)),
    [count],
  )

const vocabulary = 50257
const product = { params: { aTransposed: 0, bTransposed: 0, behind: 0 }, widths: [20] }
const products: Rule = {
  byRow: [
    { ...product, shared: [[vocabulary, 20]], outputs: vocabulary },
    { ...product, widths: [803], shared: [[33, 803]], outputs: 33 },
  ],
}
const norm = { epsilon: 1e-5, weighted: 1, centred: 1 }
const one = (sources: number, params: Record<string, number> = {}): Rule => ({
  byRow: [53, 80, 1].map((width) => ({ params, widths: Array(sources).fill(width), outputs: width })),
})
const linear: Rule = { in: 'linear.test.ts, every format: batches, pieces of them, threads' }
const handed: Rule = { in: 'handed.test.ts: the bits of floats handed over, threads' }
const experts: Rule = { in: 'experts.test.ts: the bits of a weight of its own, companies, threads' }
const trainedExperts: Rule = { in: 'train-experts.test.ts: the bits of a weight of its own, threads' }
const attention: Rule = { in: 'attention.test.ts: prompts, pieces of them, decodes, what is stored' }
const causal: Rule = { in: 'below, and training.test.ts' }

const [classes, heads, headWidth, rotary] = [803, 3, 14, 10]
const classLogits = part(classes, 31)
const targets = named((row, within) => within * classes + ((row * 97) % classes))
const shareWeights = part(1, 32)
const angles = part(rotary, 33)
const strided = (first: number, count: number) =>
  stridedTensor(
    noise(rows * 64, 34).slice(first * 64, (first + count) * 64),
    [count, heads, headWidth],
    64,
    3,
  )
const ofHeads = (count: number) => [count, heads, headWidth]
const looked = part(150, 35)

/** AdamW: weight, gradient, mean and square of "rows" that are no multiple of its pieces, then its settings. */
const moved: Made = {
  params: {},
  outputs: 2741,
  into: [0, 2, 3],
  sources: (first, count) => {
    const [weight, gradient, mean, square] = [41, 42, 43, 44].map((seed) => part(2741, seed)(first, count))
    square!.data.set(square!.data.map(Math.abs))
    const settings = Float32Array.of(0.01, 0.9, 0.99, 1e-8, 0.1, 5, 50, 0.5)
    return [weight!, gradient!, mean!, square!, fakeTensor(settings, [8])]
  },
}

/** Rows of a table to which rows are added: those that name them come in any order, some name none of these. */
const scattered: Made = {
  params: { into: 0 },
  outputs: 53,
  sources: (first, count) => {
    const names = Array.from({ length: 40 }, (_, i) => (i * 5) % rows)
    const wanted = names.flatMap((name, i) => (name >= first && name < first + count ? [i] : []))
    const all = noise(40 * 53, 45)
    const dy = Float32Array.from(wanted.flatMap((i) => [...all.subarray(i * 53, (i + 1) * 53)]))
    const ids = Int32Array.from(wanted, (i) => names[i]! - first)
    return [fakeTensor(dy, [wanted.length, 53]), fakeTensor(ids, [wanted.length])]
  },
}

/** Each row is a decode of its own, at a position of its own. */
const rotaryTable: Made = {
  params: { factor: 1.5 },
  outputs: 80,
  sources: (first, count) => {
    const words = new Int32Array(batchTableWordsMax(count, count))
    const decodes = Array.from({ length: count }, (_, i) => ({
      count: 1,
      start: 40 * (first + i),
      blocks: [i],
    }))
    const used = writeBatchTable(words, decodes, 1024)
    return [fakeTensor(words, [used]), tensorOf([40], 46)]
  },
}

const ops = Object.keys(kernelOps) as KernelOp[]
const rules: { readonly [Op in KernelOp]: Rule } = {
  rope_table: { made: [rotaryTable] },
  store_keys_values: attention,
  paged_attention: attention,
  ...{ linear_q8: linear, linear_q4: linear, linear_q5: linear, linear_q4s: linear },
  ...{ linear_q5s: linear, linear_q4k: linear, linear_q5k: linear },
  linear_mx4: linear,
  ...{ linear_q8_into_codes: handed, linear_q8_of_codes: handed },
  experts_mx4: experts,
  ...{ linear_q6k: linear, linear_f16: linear, linear_bf16: linear, linear_f32: linear, embed: linear },
  ...{ experts_q8: experts, experts_q4: experts, experts_q5: experts, experts_q4s: experts },
  ...{ experts_q5s: experts, experts_q4k: experts, experts_q5k: experts, experts_q6k: experts },
  ...{ experts_f16: experts, experts_bf16: experts, experts_f32: experts },
  ...{ route: experts, mix_experts: experts },
  ...{ matmul_by_expert_f32: trainedExperts, matmul_by_expert_bf16: trainedExperts },
  ...{ mix_experts_back: trainedExperts, shares_by_expert_back: trainedExperts, route_back: trainedExperts },
  matmul_f32: products,
  matmul_bf16: products,
  argmax: { byRow: [{ params: {}, widths: [vocabulary], outputs: 1, integers: true }] },
  read_bytes: { in: 'bench.test.ts: it measures' },
  multiply_bytes: { in: 'bench.test.ts: it measures' },
  causal_attention: causal,
  causal_attention_back: causal,
  gelu: one(1),
  gelu_back: one(2),
  silu_mul_back: one(3, { ofUp: 0 }),
  norm: {
    byRow: [53, 80].map((width) => ({ params: norm, widths: [width], shared: [[width]], outputs: width })),
  },
  norm_back: {
    byRow: [53, 80].map((width) => ({
      params: { ...norm, added: 0 },
      widths: [width, width],
      shared: [[width]],
      outputs: width,
    })),
  },
  norm_weight_back: {
    overRows: [
      {
        params: { centred: 1, epsilon: 1e-5 },
        sources: [
          [301, 53],
          [301, 53],
        ],
        shape: [53],
      },
    ],
  },
  sum_over_rows: {
    overRows: [
      {
        params: { product: 1 },
        sources: [
          [301, 53],
          [301, 53],
        ],
        shape: [53],
      },
    ],
  },
  square_sum: { overRows: [{ params: {}, sources: [[8192 * 2 + 5]], shape: [3] }] },
  adamw: { made: [moved] },
  elementwise: one(2, { kind: 2, into: 0 }),
  affine: one(1, { factor: 0.7, offset: 0.1 }),
  silu_mul: one(2),
  packed: {
    made: [{ params: {}, outputs: heads * headWidth, sources: (...at) => [strided(...at)], shape: ofHeads }],
  },
  gather_rows: {
    made: [
      {
        params: {},
        outputs: 150,
        sources: (...at) => [looked(0, rows), named((row) => (row * 3) % rows)(...at)],
      },
    ],
  },
  scatter_rows: { made: [scattered] },
  chosen_shares: {
    made: [{ params: {}, outputs: 1, sources: (...at) => [classLogits(...at), targets(...at)] }],
  },
  shares_back: {
    made: [
      {
        params: {},
        outputs: classes,
        sources: (...at) => [classLogits(...at), targets(...at), shareWeights(...at)],
      },
    ],
  },
  rope_angles: {
    made: [
      {
        params: { divided: 1, sign: 1, base: 10000, scale: 0.5, mixed: 0.2, low: 1, high: 3, factor: 1.1 },
        outputs: rotary,
        sources: (...at) => [named((row) => 40 * row)(...at), tensorOf([rotary / 2], 36)],
      },
    ],
  },
  rope: {
    made: [0, 1].map((pairs) => ({
      params: { pairs },
      outputs: heads * headWidth,
      sources: (first: number, count: number) => [strided(first, count), angles(first, count)],
      shape: ofHeads,
    })),
  },
}

function noise(count: number, seed: number): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

const countOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
const tensorOf = (shape: readonly number[], seed: number) => fakeTensor(noise(countOf(shape), seed), shape)

function run(
  kernels: Kernels,
  op: KernelOp,
  params: Record<string, number>,
  dst: FakeTensor,
  threads: number,
): FakeTensor['data'] {
  using context = new KernelContext(kernels)
  runOp(kernels, context.call(op, params as never), dst, threads)
  return dst.data
}

const ownRows = (rule: ByRow) => rule.widths.map((width, i) => noise(rows * width, i + 1))

/** The op's result for `count` of the rows in `own` from `first` on. */
function ofRows(kernels: Kernels, op: KernelOp, rule: ByRow, own: readonly Float32Array[]) {
  const shared = (rule.shared ?? []).map((shape, i) => tensorOf(shape, 20 + i))
  return (first: number, count: number, threads: number) => {
    const sources = own.map((data, i) => {
      const width = rule.widths[i]!
      return fakeTensor(data.slice(first * width, (first + count) * width), [count, width])
    })
    const results = count * rule.outputs
    const data = rule.integers ? new Int32Array(results) : new Float32Array(results)
    const shape = rule.outputs === 1 && rule.integers ? [count] : [count, rule.outputs]
    return run(kernels, op, rule.params, fakeTensor(data, shape, [...sources, ...shared]), threads)
  }
}

function byRow(kernels: Kernels, op: KernelOp, rule: ByRow): void {
  const some = ofRows(kernels, op, rule, ownRows(rule))
  keepsBits((...at) => [some(...at)], rule.outputs)
}

function keepsPoisonApart(kernels: Kernels, op: KernelOp, rule: ByRow): void {
  const row = 3
  const of = (data: FakeTensor['data'], index: number) =>
    data.slice(index * rule.outputs, (index + 1) * rule.outputs)
  const clean = ofRows(kernels, op, rule, ownRows(rule))(0, rows, 2)
  for (const [side, width] of rule.widths.entries())
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const own = ownRows(rule)
      own[side]![row * width + width - 1] = poison
      const found = ofRows(kernels, op, rule, own)(0, rows, 2)
      for (let other = 0; other < rows; other++)
        if (other !== row) expect(sameBits(of(found, other), of(clean, other))).toBe(true)
      // GELU and gates of infinity are numbers in places; of NaN nothing is.
      if (Number.isNaN(poison)) expect(of(found, row).some(Number.isNaN)).toBe(true)
    }
}

function made(kernels: Kernels, op: KernelOp, rule: Made): void {
  const some = (first: number, count: number, threads: number) => {
    const sources = rule.sources(first, count)
    const shape = rule.into ? [1] : (rule.shape?.(count) ?? [count, rule.outputs])
    const result = run(
      kernels,
      op,
      rule.params,
      fakeTensor(new Float32Array(countOf(shape)), shape, sources),
      threads,
    )
    return rule.into?.map((i) => sources[i]!.data) ?? [result]
  }
  keepsBits(some, rule.outputs)
}

/** `some` gives the results of `count` rows from `first` on. */
function keepsBits(
  some: (first: number, count: number, threads: number) => FakeTensor['data'][],
  outputs: number,
): void {
  const whole = some(0, rows, 2)
  expect(whole.every((result) => result.some((value) => value !== 0))).toBe(true)
  const same = (found: FakeTensor['data'][], expected: FakeTensor['data'][]) =>
    found.length === expected.length && found.every((data, i) => sameBits(data, expected[i]!))
  for (const threads of [1, 5]) expect(same(some(0, rows, threads), whole)).toBe(true)
  for (const [first, count] of [
    [0, 1],
    [6, 1],
    [2, 3],
  ] as const) {
    const pieces = whole.map((result) => result.slice(first * outputs, (first + count) * outputs))
    expect(same(some(first, count, 3), pieces), `rows ${first}..${first + count - 1}`).toBe(true)
  }
}

function overRows(kernels: Kernels, op: KernelOp, { params, sources, shape }: OverRows): void {
  const tensors = sources.map((source, i) => tensorOf(source, i + 1))
  const on = (threads: number) =>
    run(kernels, op, params, fakeTensor(new Float32Array(countOf(shape)), shape, tensors), threads)
  const alone = on(1)
  for (const threads of [2, 5]) expect(sameBits(on(threads), alone)).toBe(true)
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(ops.filter((op) => !('in' in rules[op])))(
      'rows of %s keep their bits in any company and on any number of threads',
      (op) => {
        const rule = rules[op]
        if ('byRow' in rule) for (const each of rule.byRow) byRow(kernels, op, each)
        if ('made' in rule) for (const each of rule.made) made(kernels, op, each)
        if ('overRows' in rule) for (const each of rule.overRows) overRows(kernels, op, each)
      },
    )

    test.each(ops.filter((op) => 'byRow' in rules[op] && op !== 'argmax'))(
      'what is no number stays seen in its row of %s, and leaves the others alone',
      (op) => {
        const rule = rules[op]
        if (!('byRow' in rule)) return
        for (const each of rule.byRow) if (each.outputs < vocabulary) keepsPoisonApart(kernels, op, each)
      },
    )

    test.each([0, 1])('sequences attend the same alone and beside others (bfloat16 %i)', (pairs) => {
      const [sequences, tokens, heads, width] = [3, 13, 2, 80]
      const perRow = heads * width
      const [q, k, v, dy] = [1, 2, 3, 4].map((seed) => noise(sequences * tokens * perRow, seed))
      const some = (first: number, count: number) => {
        const n = count * tokens
        const part = (data: Float32Array) =>
          fakeTensor(data.slice(first * tokens * perRow, (first * tokens + n) * perRow), [n, heads, width])
        const firsts = Int32Array.from({ length: n }, (_, row) => row - (row % tokens))
        const sources = [part(q!), part(k!), part(v!), fakeTensor(firsts, [n])]
        const params = { sequences: count, scale: 0.1, pairs }
        const slope = fakeTensor(part(dy!).data, [n, perRow])
        const forward = fakeTensor(new Float32Array(n * perRow), [n, perRow], sources)
        const back = fakeTensor(new Float32Array(n * perRow * 3), [n, perRow * 3], [...sources, slope])
        return [
          run(kernels, 'causal_attention', params, forward, 2),
          run(kernels, 'causal_attention_back', params, back, 2),
        ] as const
      }
      const whole = some(0, sequences)
      for (let s = 0; s < sequences; s++)
        for (const [i, alone] of some(s, 1).entries())
          expect(sameBits(alone, whole[i]!.slice(s * alone.length, (s + 1) * alone.length))).toBe(true)
    })

    test.each(['matmul_f32', 'matmul_bf16'] as const)('one row of %s through a vocabulary of 50257', (op) => {
      const [a, b] = [noise(20, 1), noise(vocabulary * 20, 2)]
      const sources = [fakeTensor(a, [1, 20]), fakeTensor(b, [vocabulary, 20])]
      const dst = fakeTensor(new Float32Array(vocabulary), [1, vocabulary], sources)
      const expected = Float64Array.from({ length: vocabulary }, (_, o) =>
        a.reduce((sum, x, i) => sum + x * b[o * 20 + i]!, 0),
      )
      const found = run(kernels, op, product.params, dst, 2)
      expect(relativeError(found, expected)).toBeLessThan(op === 'matmul_f32' ? 1e-6 : 1e-2)
    })
  },
)
