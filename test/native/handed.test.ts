import { describe, expect, test } from 'vitest'
import { type KernelOp, type KernelParams, linearGates } from '../../src/runtime/kernel-ops.ts'
import { KernelContext, type Kernels } from '../../src/runtime/kernels.ts'
import { activations, epsilon, packed } from './products.ts'
import { everyKernels, type FakeTensor, fakeTensor, runOp, sameBits } from './tensors.ts'
import { randomWeight } from './weights.ts'

/** Rows N, inputs K and outputs M of a gated product; its only reader has 48 outputs. */
type Shape = readonly [rows: number, inputs: number, outputs: number]

const readerOutputs = 48

// Fewer rows than are handed over, as many, and blocks of rows that are not whole; parts of a block of 256 inputs and of outputs.
const shapes: readonly Shape[] = [
  [63, 64, 256],
  [64, 96, 32],
  [65, 352, 544],
  [113, 288, 288],
  [300, 896, 800],
]

const handing = everyKernels.filter((kernels) => kernels.offers('linear_q8_into_codes'))

/** A gated product of normed rows and a product that reads it, with a residual behind. */
class FeedForward {
  readonly #kernels: Kernels
  readonly #shape: Shape
  readonly #gateUp: Uint8Array
  readonly #down: Uint8Array

  constructor(kernels: Kernels, shape: Shape) {
    const [, inputs, outputs] = shape
    this.#kernels = kernels
    this.#shape = shape
    this.#gateUp = new Uint8Array(kernels.packedBytes('q8', outputs, inputs, true))
    for (const [seed, half] of [
      [9, 'gate'],
      [10, 'up'],
    ] as const)
      kernels.packRows(
        'q8',
        this.#gateUp,
        inputs,
        0,
        randomWeight('Q8_0', outputs, inputs, seed).source,
        half,
      )
    this.#down = packed(kernels, 'q8', randomWeight('Q8_0', readerOutputs, outputs, 11), outputs)
  }

  run(
    [first, second]: readonly [KernelOp, KernelOp],
    x: Float32Array,
    gated: keyof typeof linearGates,
    threads: number,
  ): Float32Array {
    const [rows, inputs, outputs] = this.#shape
    const params = { normed: 0, biased: 0, residual: 0, gated: 0, adapted: 0, epsilon }
    using context = new KernelContext(this.#kernels)
    const run = (op: KernelOp, own: Partial<typeof params>, width: number, sources: FakeTensor[]) => {
      const dst = fakeTensor(new Float32Array(rows * width), [rows, width], sources)
      runOp(this.#kernels, context.call(op, { ...params, ...own } as KernelParams<KernelOp>), dst, threads)
      return dst
    }
    const weight = (bytes: Uint8Array) => fakeTensor(bytes, [bytes.length])
    const norm = fakeTensor(activations(1, inputs, 3), [inputs])
    const open = run(first, { normed: 1, gated: linearGates[gated] }, outputs, [
      fakeTensor(x, [rows, inputs]),
      weight(this.#gateUp),
      norm,
    ])
    const residual = fakeTensor(activations(rows, readerOutputs, 4), [rows, readerOutputs])
    return run(second, { residual: 1 }, readerOutputs, [open, weight(this.#down), residual])
      .data as Float32Array
  }
}

const byFloats = ['linear_q8', 'linear_q8'] as const
const byCodes = ['linear_q8_into_codes', 'linear_q8_of_codes'] as const

test('some kernels hand codes over', () => {
  expect(handing.length).toBeGreaterThan(0)
})

describe.each(handing.map((kernels) => [kernels.instructionSet, kernels] as const))(
  'handed over as codes by %s',
  (_, kernels) => {
    test.each(shapes)('%i rows by %i inputs and %i outputs have the bits of floats', (...shape) => {
      const layer = new FeedForward(kernels, shape)
      const x = activations(shape[0], shape[1])
      for (const gated of ['silu', 'gelu'] as const) {
        const expected = layer.run(byFloats, x, gated, 2)
        for (const threads of [1, 2, 3])
          expect(sameBits(layer.run(byCodes, x, gated, threads), expected), `${threads} threads`).toBe(true)
      }
    })

    test('a row keeps its bits beside one that is no number and one of zeros', () => {
      const [rows, inputs] = [70, 96]
      const layer = new FeedForward(kernels, [rows, inputs, 288])
      const x = activations(rows, inputs)
      const whole = layer.run(byCodes, x, 'silu', 2)
      x[5 * inputs + 3] = Number.NaN
      x.fill(0, 6 * inputs, 7 * inputs)
      const broken = layer.run(byCodes, x, 'silu', 2)
      const rowOf = (y: Float32Array, row: number) =>
        y.subarray(row * readerOutputs, (row + 1) * readerOutputs)
      expect(rowOf(broken, 5).every(Number.isNaN)).toBe(true)
      expect(rowOf(broken, 6)).toEqual(
        activations(rows, readerOutputs, 4).subarray(6 * readerOutputs, 7 * readerOutputs),
      )
      for (let row = 0; row < rows; row++)
        if (row !== 5 && row !== 6) expect(sameBits(rowOf(broken, row), rowOf(whole, row))).toBe(true)
    })
  },
)
