/**
 * Whatever the op: a row's bits do not depend on the rows beside it nor on threads, at widths that are no multiple of
 * anything. Leaving an op out of the table does not compile. What an op computes is tested beside its reference.
 */
import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { type KernelOp, kernelOps } from '../../src/runtime/kernel-ops.ts'
import { KernelContext, type Kernels } from '../../src/runtime/kernels.ts'
import { everyKernels, type FakeTensor, fakeTensor, relativeError, runOp, sameBits } from './tensors.ts'

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

type Rule = { byRow: readonly ByRow[] } | { overRows: readonly OverRows[] } | { in: string }

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
const attention: Rule = { in: 'attention.test.ts: prompts, pieces of them, decodes, what is stored' }
const elements: Rule = { in: 'elements.test.ts' }
const causal: Rule = { in: 'below, and training.test.ts' }

const rules: { readonly [Op in KernelOp]: Rule } = {
  rope_table: attention,
  store_keys_values: attention,
  paged_attention: attention,
  ...{ linear_q8: linear, linear_q4: linear, linear_q5: linear, linear_q4k: linear, linear_q5k: linear },
  ...{ linear_q6k: linear, linear_f16: linear, linear_bf16: linear, linear_f32: linear, embed: linear },
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
  adamw: { in: 'training.test.ts' },
  elementwise: one(2, { kind: 2, into: 0 }),
  affine: one(1, { factor: 0.7, offset: 0.1 }),
  silu_mul: one(2),
  packed: elements,
  gather_rows: elements,
  scatter_rows: elements,
  chosen_shares: elements,
  shares_back: elements,
  rope_angles: elements,
  rope: elements,
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

const rows = 7

function byRow(kernels: Kernels, op: KernelOp, rule: ByRow): void {
  const own = rule.widths.map((width, i) => noise(rows * width, i + 1))
  const shared = (rule.shared ?? []).map((shape, i) => tensorOf(shape, 20 + i))
  const some = (first: number, count: number, threads: number) => {
    const sources = own.map((data, i) => {
      const width = rule.widths[i]!
      return fakeTensor(data.slice(first * width, (first + count) * width), [count, width])
    })
    const results = count * rule.outputs
    const data = rule.integers ? new Int32Array(results) : new Float32Array(results)
    const shape = rule.outputs === 1 && rule.integers ? [count] : [count, rule.outputs]
    return run(kernels, op, rule.params, fakeTensor(data, shape, [...sources, ...shared]), threads)
  }
  const whole = some(0, rows, 2)
  for (const threads of [1, 5]) expect(sameBits(some(0, rows, threads), whole)).toBe(true)
  for (const [first, count] of [
    [0, 1],
    [6, 1],
    [2, 3],
  ] as const) {
    const piece = whole.slice(first * rule.outputs, (first + count) * rule.outputs)
    expect(sameBits(some(first, count, 3), piece), `rows ${first}..${first + count - 1}`).toBe(true)
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
    test.each((Object.keys(kernelOps) as KernelOp[]).filter((op) => !('in' in rules[op])))(
      'rows of %s keep their bits in any company and on any number of threads',
      (op) => {
        const rule = rules[op]
        if ('byRow' in rule) for (const each of rule.byRow) byRow(kernels, op, each)
        if ('overRows' in rule) for (const each of rule.overRows) overRows(kernels, op, each)
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
