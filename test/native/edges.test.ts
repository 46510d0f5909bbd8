/** What the tests of each op leave at its edges: sequences longer than a block of rows, layouts, formats, a vocabulary. */
import { describe, expect, test } from 'vitest'
import { attend, Cache, filled, formatted, reference, storeRows, toleranceOf } from './paged.ts'
import { everyKernels, type FakeTensor, fakeTensor, normals, relativeError, runTwice } from './tensors.ts'

/** A tensor [columns, rows] that is the other way round in memory. */
function turned(data: Float32Array, rows: number, columns: number): FakeTensor {
  const tensor = fakeTensor(data, [columns, rows])
  const view = new DataView(tensor.struct.buffer)
  const [firstStride, secondStride] = [48, 56]
  view.setBigUint64(firstStride, BigInt(columns * 4), true)
  view.setBigUint64(secondStride, 4n, true)
  return tensor
}

/** Causal attention of one head of one sequence and its gradients, by definition and in double precision. */
function attention(tokens: number, width: number, [q, k, v, dy]: readonly Float32Array[]) {
  const [out, dq, dk, dv] = [0, 0, 0, 0].map(() => new Float64Array(tokens * width)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  const dot = (a: Float32Array, i: number, b: Float32Array, j: number) => {
    let sum = 0
    for (let d = 0; d < width; d++) sum += a[i * width + d]! * b[j * width + d]!
    return sum
  }
  for (let row = 0; row < tokens; row++) {
    const scores = Array.from({ length: row + 1 }, (_, j) => dot(q!, row, k!, j) / Math.sqrt(width))
    const best = scores.reduce((a, b) => Math.max(a, b))
    const weights = scores.map((score) => Math.exp(score - best))
    const total = weights.reduce((a, b) => a + b)
    const slopes = weights.map((_, j) => dot(dy!, row, v!, j))
    const mean = weights.reduce((sum, weight, j) => sum + (weight / total) * slopes[j]!, 0)
    for (let j = 0; j <= row; j++) {
      const share = weights[j]! / total
      const slope = (share * (slopes[j]! - mean)) / Math.sqrt(width)
      for (let d = 0; d < width; d++) {
        const [own, other] = [row * width + d, j * width + d]
        out[own]! += share * v![other]!
        dq[own]! += slope * k![other]!
        dk[other]! += slope * q![own]!
        dv[other]! += share * dy![own]!
      }
    }
  }
  const slopes = Float64Array.from({ length: tokens * 3 * width }, (_, i) => {
    const [row, column] = [Math.floor(i / (3 * width)), i % (3 * width)]
    return [dq, dk, dv][Math.floor(column / width)]![row * width + (column % width)]!
  })
  return { out, slopes }
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each([
      { pairs: 0, error: 1e-5 },
      { pairs: 1, error: 2e-2 },
    ])(
      'attention over more than 1,024 tokens and its gradients are those of its definition (bfloat16 $pairs)',
      ({ pairs, error }) => {
        const [tokens, width] = [1030, 8]
        const sides = [1, 2, 3, 4].map((seed) => normals(tokens * width, seed))
        const { out, slopes } = attention(tokens, width, sides)
        const heads = sides.slice(0, 3).map((side) => fakeTensor(side, [tokens, 1, width]))
        const sources = [...heads, fakeTensor(new Int32Array(tokens), [tokens])]
        const params = { sequences: 1, scale: 1 / Math.sqrt(width), pairs }
        const found = runTwice(kernels, 'causal_attention', params, [tokens, width], sources)
        expect(relativeError(found, out)).toBeLessThan(error)
        const dy = fakeTensor(sides[3]!, [tokens, width])
        const back = runTwice(kernels, 'causal_attention_back', params, [tokens, 3 * width], [...sources, dy])
        expect(relativeError(back, slopes)).toBeLessThan(error)
      },
    )

    test.each(formatted.filter(({ window }) => window === undefined))('what is stored of %o', (shape) => {
      const { width, heads, kvHeads } = shape
      const perRow = (heads + 2 * kvHeads) * width
      const [rows, start, blocks] = [5, 14, [2, 0]]
      const cache = new Cache(shape, 3)
      const qkv = normals(rows * perRow, 6)
      storeRows(kernels, cache, [{ count: rows, start, blocks }], qkv)
      for (let row = 0; row < rows; row++)
        for (let head = 0; head < kvHeads; head++)
          for (const [side, offset] of [
            ['key', heads],
            ['value', heads + kvHeads],
          ] as const) {
            const at = row * perRow + (offset + head) * width
            const position = start + row
            const block = blocks[Math.floor(position / shape.blockTokens)]!
            const found = Array.from({ length: width }, (_, d) =>
              cache[side](block, head, d, position % shape.blockTokens),
            )
            expect(relativeError(found, qkv.subarray(at, at + width))).toBeLessThan(5e-3)
          }
    })

    test.each(formatted.filter(({ width, window }) => width === 80 && window === undefined))(
      'a table may name a block again, and a context may be one token (%o)',
      (shape) => {
        const { cache, blocks } = filled(kernels, shape, [40])
        const [first, second] = blocks[0]! as [number, number]
        const sequences = [
          { count: 1, start: 0, blocks: [first] },
          { count: 3, start: 45, blocks: [first, second, first] },
          { count: 1, start: 20, blocks: [second, second] },
        ]
        const q = normals(5 * shape.heads * shape.width, 7)
        const error = relativeError(attend(kernels, cache, sequences, q), reference(cache, sequences, q))
        expect(error).toBeLessThan(toleranceOf(kernels, shape))
      },
    )

    test('sums over rows without a second factor, and a packed copy of what lies turned', () => {
      const [rows, columns] = [301, 53]
      const x = normals(rows * columns, 8)
      const sums = Array.from({ length: columns }, (_, i) =>
        Array.from({ length: rows }, (_, row) => x[row * columns + i]!).reduce((a, b) => a + b),
      )
      const found = runTwice(
        kernels,
        'sum_over_rows',
        { product: 0 },
        [columns],
        [fakeTensor(x, [rows, columns])],
      )
      expect(relativeError(found, sums)).toBeLessThan(1e-6)
      const copy = runTwice(kernels, 'packed', {}, [columns, rows], [turned(x, rows, columns)])
      expect(copy).toEqual(copy.map((_, i) => x[(i % rows) * columns + Math.floor(i / rows)]!))
    })

    test('angles between two bases are mixed as YaRN says', () => {
      const [rotary, positions] = [20, Int32Array.of(0, 1, 77, 4000)]
      const [base, scale, mixed, low, high, factor] = [10000, 0.25, 1, 2, 7, 1.25]
      const params = { divided: 0, sign: -1, base, scale, mixed, low, high, factor }
      const shape = [positions.length, rotary]
      const table = runTwice(kernels, 'rope_angles', params, shape, [
        fakeTensor(positions, [positions.length]),
      ])
      const expected = [...positions].flatMap((position) => {
        const angles = Array.from({ length: rotary / 2 }, (_, i) => {
          const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)))
          const extrapolated = mixed * (1 - ramp)
          return position * base ** ((-2 * i) / rotary) * (scale * (1 - extrapolated) + extrapolated)
        })
        return [
          ...angles.map((angle) => Math.cos(angle) * factor),
          ...angles.map((angle) => -Math.sin(angle) * factor),
        ]
      })
      // An angle of 4,000 in a float is good to 2e-4.
      expect(relativeError(table, expected)).toBeLessThan(5e-4)
    })

    test('shares and their gradients over a vocabulary of 50257', () => {
      const [rows, width] = [2, 50257]
      const logits = normals(rows * width, 9).map((x) => 3 * x)
      const targets = [50256, 17]
      const cells = Int32Array.from(targets, (target, row) => row * width + target)
      const weights = Float32Array.of(0.5, -2)
      const sources = [fakeTensor(logits, [rows, width]), fakeTensor(cells, [rows])]
      const chosen = runTwice(kernels, 'chosen_shares', {}, [rows, 1], sources)
      const slopes = runTwice(
        kernels,
        'shares_back',
        {},
        [rows, width],
        [...sources, fakeTensor(weights, [rows, 1])],
      )
      for (let row = 0; row < rows; row++) {
        const own = logits.subarray(row * width, (row + 1) * width)
        const powers = Float64Array.from(own, Math.exp)
        const total = powers.reduce((a, b) => a + b)
        const target = targets[row]!
        expect(Math.abs((chosen[row]! * total) / powers[target]! - 1)).toBeLessThan(1e-5)
        const expected = powers.map((power, i) => weights[row]! * (power / total - (i === target ? 1 : 0)))
        expect(relativeError(slopes.subarray(row * width, (row + 1) * width), expected)).toBeLessThan(1e-5)
      }
    })
  },
)
