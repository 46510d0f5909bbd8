import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { KernelContext } from '../../src/runtime/kernels.ts'
import { everyKernels, fakeTensor, normals, relativeError, runOp, runTwice, sameBits } from './tensors.ts'

// B sequences of T tokens, N = B*T, H heads, G key/value heads, D head width, W width.

interface Shape {
  sequences: number
  tokens: number
  heads: number
  groups: number
  width: number
  /** Tokens of a document; the whole sequence by default. */
  document?: number
  /** Tokens that one sees at most; all before it by default. */
  window?: number
  /** Scores of heads beside those of every row. */
  sinks?: readonly number[]
}

interface Sides {
  q: Float64Array
  k: Float64Array
  v: Float64Array
  /** Of each head; none where there are no sinks. */
  sinks: Float64Array
}

function firstsOf({ sequences, tokens, document = tokens, window = tokens }: Shape): Int32Array {
  return Int32Array.from({ length: sequences * tokens }, (_, row) =>
    Math.max(row - ((row % tokens) % document), row - window + 1),
  )
}

/** Result [N, H*D] of attention by its definition, in double precision. */
function attention(shape: Shape, { q, k, v, sinks }: Sides): Float64Array {
  const { heads, groups, width } = shape
  const out = new Float64Array(q.length)
  const firsts = firstsOf(shape)
  for (let row = 0; row < firsts.length; row++) {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor((h * groups) / heads)
      const own = (row * heads + h) * width
      const scores: number[] = []
      for (let j = firsts[row]!; j <= row; j++) {
        let dot = 0
        for (let d = 0; d < width; d++) dot += q[own + d]! * k[(j * groups + g) * width + d]!
        scores.push(dot / Math.sqrt(width))
      }
      const sink = sinks[h] ?? Number.NEGATIVE_INFINITY
      const best = Math.max(sink, ...scores)
      const weights = scores.map((score) => Math.exp(score - best))
      const total = weights.reduce((a, b) => a + b, Math.exp(sink - best))
      weights.forEach((weight, i) => {
        const from = ((firsts[row]! + i) * groups + g) * width
        for (let d = 0; d < width; d++) out[own + d]! += (weight / total) * v[from + d]!
      })
    }
  }
  return out
}

const shapes: readonly Shape[] = [
  { sequences: 2, tokens: 37, heads: 4, groups: 2, width: 20 },
  { sequences: 1, tokens: 65, heads: 2, groups: 2, width: 64, document: 9 },
  { sequences: 3, tokens: 8, heads: 1, groups: 1, width: 80 },
  { sequences: 1, tokens: 1, heads: 3, groups: 1, width: 8 },
  { sequences: 1, tokens: 290, heads: 2, groups: 1, width: 8, document: 270, window: 45 },
  { sequences: 2, tokens: 70, heads: 4, groups: 2, width: 20, window: 33, sinks: [-40, 0.3, 2, 30] },
  { sequences: 1, tokens: 290, heads: 2, groups: 1, width: 8, document: 270, window: 45, sinks: [1, -0.5] },
  { sequences: 3, tokens: 37, heads: 3, groups: 1, width: 41, document: 11, sinks: [0.5, -1, 2.5] },
  { sequences: 2, tokens: 1, heads: 5, groups: 5, width: 16, sinks: [0, 1, -1, 3, 0.2] },
]

function sources(shape: Shape) {
  const { sequences, tokens, heads, groups, width } = shape
  const rows = sequences * tokens
  const [q, k, v] = [
    normals(rows * heads * width, 1),
    normals(rows * groups * width, 2),
    normals(rows * groups * width, 3),
  ]
  const tensors = [
    fakeTensor(q, [rows, heads, width]),
    fakeTensor(k, [rows, groups, width]),
    fakeTensor(v, [rows, groups, width]),
    fakeTensor(firstsOf(shape), [rows]),
    ...(shape.sinks ? [fakeTensor(Float32Array.from(shape.sinks), [heads])] : []),
  ]
  const sides: Sides = {
    ...{ q: Float64Array.from(q), k: Float64Array.from(k), v: Float64Array.from(v) },
    sinks: Float64Array.from(shape.sinks ?? []),
  }
  /** Numbers of a row of gradients. */
  const slopeColumns = (heads + 2 * groups) * width + (shape.sinks ? heads : 0)
  return { rows, tensors, sides, slopeColumns }
}

/** d sum(dy * y) / d of some entries of one side, by central differences. */
function differences(
  shape: Shape,
  sides: Sides,
  side: 'q' | 'k' | 'v',
  dy: Float32Array,
  entries: readonly number[],
) {
  const step = 1e-5
  const total = () => attention(shape, sides).reduce((sum, y, i) => sum + y * dy[i]!, 0)
  return entries.map((i) => {
    const values = sides[side]
    const kept = values[i]!
    values[i] = kept + step
    const above = total()
    values[i] = kept - step
    const below = total()
    values[i] = kept
    return (above - below) / (2 * step)
  })
}

/** What each row adds to the gradients of sinks, [N, H], by central differences: a sink moves the rows of its own head alone. */
function sinkDifferences(shape: Shape, sides: Sides, dy: Float32Array): Float64Array {
  const step = 1e-5
  const moved = (by: number) => attention(shape, { ...sides, sinks: sides.sinks.map((sink) => sink + by) })
  const [above, below] = [moved(step), moved(-step)]
  const slopes = new Float64Array(dy.length / shape.width)
  for (const [i, slope] of dy.entries())
    slopes[Math.floor(i / shape.width)]! += (slope * (above[i]! - below[i]!)) / (2 * step)
  return slopes
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    const exactness = [
      { pairs: 0, valueError: 3e-6, slopeError: 2e-5 },
      // bfloat16 keeps 8 bits of each factor.
      { pairs: 1, valueError: 1e-2, slopeError: 2e-2 },
    ]
    const attentions = exactness.flatMap((exact) => shapes.map((shape) => [{ ...exact, ...shape }] as const))
    test.each(attentions)(
      'causal attention and its gradients are those of its definition for %o',
      (shape) => {
        const { sequences, heads, groups, width, pairs, valueError, slopeError } = shape
        const { rows, tensors, sides, slopeColumns: all } = sources(shape)
        const params = { sequences, scale: 1 / Math.sqrt(width), pairs }
        const y = runTwice(kernels, 'causal_attention', params, [rows, heads * width], tensors)
        expect(relativeError(y, attention(shape, sides))).toBeLessThan(valueError)
        const dy = normals(rows * heads * width, 4)
        const slopes = runTwice(
          kernels,
          'causal_attention_back',
          params,
          [rows, all],
          [...tensors, fakeTensor(dy, [rows, heads * width])],
        )
        const random = new Random(5)
        for (const [side, first, count] of [
          ['q', 0, heads * width],
          ['k', heads * width, groups * width],
          ['v', (heads + groups) * width, groups * width],
        ] as const) {
          const entries = Array.from({ length: 12 }, () => random.integer(rows * count))
          const found = entries.map((i) => slopes[Math.floor(i / count) * all + first + (i % count)]!)
          const largest = Math.max(...slopes.map(Math.abs))
          const expected = differences(shape, sides, side, dy, entries)
          for (const [i, value] of expected.entries())
            expect(Math.abs(found[i]! - value) / largest).toBeLessThan(slopeError)
        }
        if (shape.sinks === undefined) return
        const ofSinks = slopes.filter((_, i) => i % all >= (heads + 2 * groups) * width)
        expect(relativeError(ofSinks, sinkDifferences(shape, sides, dy))).toBeLessThan(slopeError)
      },
    )

    const onThreads = [0, 1].flatMap((pairs) =>
      [shapes[0]!, ...shapes.slice(5)].map((shape) => [pairs, shape] as const),
    )
    test.each(onThreads)(
      'attention of whole sequences has the same bits on any number of threads (%i, %o)',
      (pairs, shape) => {
        const { rows, tensors, slopeColumns: all } = sources(shape)
        const params = { sequences: shape.sequences, scale: 0.2, pairs }
        const forward = (threads: number) =>
          runTwice(kernels, 'causal_attention', params, [rows, shape.heads * shape.width], tensors, {
            threads,
          })
        const counts = [2, 3, 5]
        const one = forward(1)
        for (const threads of counts) expect(sameBits(forward(threads), one)).toBe(true)
        const dy = fakeTensor(normals(rows * shape.heads * shape.width, 9), [rows, shape.heads * shape.width])
        const back = (threads: number) =>
          runTwice(kernels, 'causal_attention_back', params, [rows, all], [...tensors, dy], { threads })
        const oneBack = back(1)
        for (const threads of counts) expect(sameBits(back(threads), oneBack)).toBe(true)
      },
    )

    test('activations and norms have the slopes of their definitions, whatever the length', () => {
      const [rows, width] = [7, 53]
      const [x, dy, up] = [normals(rows * width, 6), normals(rows * width, 7), normals(rows * width, 8)]
      const tensor = (values: Float32Array) => fakeTensor(values, [rows, width])
      const sigmoid = (a: number) => 1 / (1 + Math.exp(-a))
      const gelu = (a: number) => a * sigmoid(2 * Math.sqrt(2 / Math.PI) * (a + 0.044715 * a ** 3))
      const slope = (f: (a: number) => number, a: number) => (f(a + 1e-5) - f(a - 1e-5)) / 2e-5
      const shape = [rows, width]
      expect(
        relativeError(runTwice(kernels, 'gelu', {}, shape, [tensor(x)]), Array.from(x, gelu)),
      ).toBeLessThan(2e-6)
      const geluSlopes = Array.from(x, (a, i) => dy[i]! * slope(gelu, a))
      expect(
        relativeError(runTwice(kernels, 'gelu_back', {}, shape, [tensor(dy), tensor(x)]), geluSlopes),
      ).toBeLessThan(1e-5)
      const silu = (a: number) => a * sigmoid(a)
      const gated = [tensor(dy), tensor(x), tensor(up)]
      const gateSlopes = Array.from(x, (a, i) => dy[i]! * up[i]! * slope(silu, a))
      expect(
        relativeError(runTwice(kernels, 'silu_mul_back', { ofUp: 0 }, shape, gated), gateSlopes),
      ).toBeLessThan(1e-5)
      const upSlopes = Array.from(x, (a, i) => dy[i]! * silu(a))
      expect(
        relativeError(runTwice(kernels, 'silu_mul_back', { ofUp: 1 }, shape, gated), upSlopes),
      ).toBeLessThan(2e-6)
      for (const centred of [0, 1] as const) {
        const params = { centred, epsilon: 1e-5, weighted: 0, added: 0 }
        const found = runTwice(kernels, 'norm_back', params, shape, [tensor(dy), tensor(x)])
        const row = (values: Float32Array, r: number) =>
          Float64Array.from(values.subarray(r * width, (r + 1) * width))
        const normed = (values: Float64Array) => {
          const mean = centred ? values.reduce((a, b) => a + b) / width : 0
          const variance = values.reduce((sum, a) => sum + (a - mean) ** 2, 0) / width
          return values.map((a) => (a - mean) / Math.sqrt(variance + 1e-5))
        }
        const total = (values: Float64Array, r: number) =>
          normed(values).reduce((sum, y, i) => sum + y * dy[r * width + i]!, 0)
        for (const [r, i] of [
          [0, 0],
          [3, 52],
          [6, 17],
        ] as const) {
          const [above, below] = [row(x, r), row(x, r)]
          above[i]! += 1e-4
          below[i]! -= 1e-4
          const expected = (total(above, r) - total(below, r)) / 2e-4
          expect(Math.abs(found[r * width + i]! - expected)).toBeLessThan(1e-4)
        }
      }
      const sums = Array.from({ length: width }, (_, i) =>
        Array.from({ length: rows }, (_, r) => dy[r * width + i]! * x[r * width + i]!).reduce(
          (a, b) => a + b,
        ),
      )
      const found = runTwice(kernels, 'sum_over_rows', { product: 1 }, [width], [tensor(dy), tensor(x)])
      expect(relativeError(found, sums)).toBeLessThan(1e-6)
    })

    test.each([0, 1])(
      'a norm, its weight and what is added to its gradient are one pass (centred %i)',
      (centred) => {
        const [rows, width, epsilon] = [300, 53, 1e-5]
        const [x, dy, added] = [
          normals(rows * width, 13),
          normals(rows * width, 14),
          normals(rows * width, 15),
        ]
        const weight = normals(width, 16)
        const shape = [rows, width]
        const [xs, slopes] = [fakeTensor(x, shape), fakeTensor(dy, shape)]
        const normed = Array.from({ length: rows }, (_, r) => {
          const row = Array.from(x.subarray(r * width, (r + 1) * width))
          const mean = centred ? row.reduce((a, b) => a + b) / width : 0
          const variance = row.reduce((sum, a) => sum + (a - mean) ** 2, 0) / width
          return row.map((a) => (a - mean) / Math.sqrt(variance + epsilon))
        }).flat()
        const times = (values: ArrayLike<number>) =>
          Float32Array.from(values, (value, i) => value * weight[i % width]!)
        const norm = { centred, epsilon, weighted: 1 }
        const forward = runTwice(kernels, 'norm', norm, shape, [xs, fakeTensor(weight, [width])])
        expect(relativeError(forward, times(normed))).toBeLessThan(1e-6)
        const plain = { centred, epsilon, weighted: 0, added: 0 }
        const apart = runTwice(kernels, 'norm_back', plain, shape, [fakeTensor(times(dy), shape), xs])
        const sources = [slopes, xs, fakeTensor(weight, [width]), fakeTensor(added, shape)]
        const together = runTwice(kernels, 'norm_back', { ...plain, weighted: 1, added: 1 }, shape, sources)
        expect(
          sameBits(
            together,
            Float32Array.from(apart, (value, i) => added[i]! + value),
          ),
        ).toBe(true)
        const sums = Array.from({ length: width }, (_, i) =>
          normed.reduce((sum, value, at) => (at % width === i ? sum + value * dy[at]! : sum), 0),
        )
        const one = runTwice(kernels, 'norm_weight_back', { centred, epsilon }, [width], [slopes, xs], {
          threads: 1,
        })
        expect(relativeError(one, sums)).toBeLessThan(2e-6)
        expect(
          sameBits(
            runTwice(kernels, 'norm_weight_back', { centred, epsilon }, [width], [slopes, xs], {
              threads: 4,
            }),
            one,
          ),
        ).toBe(true)
      },
    )

    test('AdamW moves weights as its paper says, gradients scaled first', () => {
      const count = 8192 + 37
      const [weight, gradient, mean] = [normals(count, 9), normals(count, 10), normals(count, 11)]
      const square = normals(count, 12).map(Math.abs)
      const [rate, beta1, beta2, epsilon, decay, first, second, factor] = [
        0.01, 0.9, 0.99, 1e-8, 0.1, 5, 50, 0.5,
      ]
      const expected = Array.from(weight, (w, i) => {
        const g = gradient[i]! * factor
        const m = beta1 * mean[i]! + (1 - beta1) * g
        const v = beta2 * square[i]! + (1 - beta2) * g * g
        return w * (1 - rate * decay) - (rate * m * first) / (Math.sqrt(v * second) + epsilon)
      })
      const settings = Float32Array.of(rate, beta1, beta2, epsilon, decay, first, second, factor)
      const tensors = [weight, gradient, mean, square, settings].map((values) =>
        fakeTensor(values, [values.length]),
      )
      const dst = fakeTensor(new Float32Array(4), [4], tensors)
      using context = new KernelContext(kernels)
      runOp(kernels, context.call('adamw', {}), dst)
      expect(relativeError(weight, expected)).toBeLessThan(1e-6)
      const sums = runTwice(kernels, 'square_sum', {}, [2], [fakeTensor(gradient, [count])])
      const squares = gradient.reduce((sum, g) => sum + g * g, 0)
      expect(Math.abs(sums[0]! + sums[1]! - squares) / squares).toBeLessThan(1e-6)
    })
  },
)
