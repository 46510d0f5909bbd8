import koffi from 'koffi'
import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { quantize } from '../../src/formats/convert.ts'
import { type AdapterFactors, type FactorFormat, packAdapter } from '../../src/models/packed-adapters.ts'
import { KernelContext, type Kernels, linearOps, type PackedFormat } from '../../src/runtime/kernels.ts'
import { everyKernels, fakeTensor, relativeError, runOp, sameBits } from './tensors.ts'

// N rows, K inputs, M outputs, r ranks.

interface Shape {
  rows: number
  inputs: number
  /** Outputs of each member of the packed weight. */
  outputs: readonly number[]
  gated?: boolean
}

function numbers(count: number, seed: number): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

function randomFactors(inputs: number, outputs: number, rank: number, seed: number): AdapterFactors {
  return {
    inputs,
    outputs,
    rank,
    scale: 0.5 + (seed % 5) / 4,
    a: numbers(rank * inputs, seed),
    b: numbers(outputs * rank, seed + 1),
  }
}

/** A packed weight of several members and adapters of it, in every slot but those that are left out. */
class Adapted {
  readonly shape: Shape
  readonly kernels: Kernels
  readonly adapters: readonly (ReadonlyMap<string, AdapterFactors> | undefined)[]
  readonly #format: PackedFormat
  readonly #packed: Uint8Array
  readonly #columns: number
  readonly #firsts: number[] = []
  readonly #slots: readonly (Uint8Array | undefined)[]

  constructor(
    kernels: Kernels,
    shape: Shape,
    format: PackedFormat,
    factors: FactorFormat,
    adapters: readonly (ReadonlyMap<string, AdapterFactors> | undefined)[],
  ) {
    this.kernels = kernels
    this.shape = shape
    this.adapters = adapters
    this.#format = format
    const { inputs, outputs, gated = false } = shape
    let columns = 0
    for (const count of outputs) {
      this.#firsts.push(columns)
      columns += Math.ceil(count / 16) * 16
    }
    this.#columns = gated ? outputs[0]! : columns
    this.#packed = new Uint8Array(kernels.packedBytes(format, this.#columns, inputs, gated))
    for (const [i, rows] of outputs.entries()) {
      const dtype = format === 'q8' ? 'Q8_0' : 'F32'
      const data = quantize(dtype, numbers(rows * inputs, 100 + i))
      const interleave = gated ? (['gate', 'up'] as const)[i]! : 'whole'
      const first = gated ? 0 : this.#firsts[i]!
      kernels.packRows(format, this.#packed, inputs, first, { dtype, data, rows }, interleave)
    }
    const places = {
      group: gated
        ? ({ kind: 'gated', names: ['m0', 'm1'] } as const)
        : ({ kind: 'joined', names: outputs.map((_, i) => `m${i}`) } as const),
      inputs,
      members: outputs.map((count, i) => ({ name: `m${i}`, first: this.#firsts[i]!, outputs: count })),
    }
    this.#slots = adapters.map((layers) => layers && packAdapter(places, layers, factors))
  }

  /** The product of rows with these slots, or without any adapters. */
  run(x: Float32Array, slots: Int32Array | undefined, threads = 2, residual?: Float32Array): Float32Array {
    const { inputs, gated = false } = this.shape
    const rows = x.length / inputs
    const addresses = BigInt64Array.from(this.#slots, (slot) => (slot ? koffi.address(slot) : 0n))
    const table = new Int32Array(addresses.buffer)
    const dst = fakeTensor(
      new Float32Array(rows * this.#columns),
      [rows, this.#columns],
      [
        fakeTensor(x, [rows, inputs]),
        fakeTensor(this.#packed, [this.#packed.length]),
        ...(residual ? [fakeTensor(residual, [rows, this.#columns])] : []),
        ...(slots ? [fakeTensor(slots, [rows]), fakeTensor(table, [table.length])] : []),
      ],
    )
    using context = new KernelContext(this.kernels)
    const call = context.call(linearOps[this.#format], {
      normed: 0,
      biased: 0,
      residual: residual ? 1 : 0,
      gated: gated ? 1 : 0,
      adapted: slots ? 1 : 0,
      epsilon: 0,
    })
    runOp(this.kernels, call, dst, threads)
    return dst.data as Float32Array
  }

  /** What the adapter in `slot` adds to one row, in the columns of the result; plain loops in double precision. */
  change(x: Float32Array, slot: number): Float64Array {
    const out = new Float64Array(this.#columns)
    for (const [i, first] of this.#firsts.entries()) {
      const factors = slot < 0 ? undefined : this.adapters[slot]?.get(`m${i}`)
      if (factors === undefined) continue
      const { rank, inputs, outputs, scale, a, b } = factors
      for (let r = 0; r < rank; r++) {
        let lowered = 0
        for (let k = 0; k < inputs; k++) lowered += x[k]! * a[r * inputs + k]!
        for (let o = 0; o < outputs; o++) out[first + o]! += scale * lowered * b[o * rank + r]!
      }
    }
    return out
  }
}

const shapes: readonly Shape[] = [
  { rows: 1, inputs: 32, outputs: [1] },
  { rows: 3, inputs: 64, outputs: [33] },
  { rows: 21, inputs: 96, outputs: [48, 17, 30] },
]

/** One adapter of one rank, one that leaves members out, one of many ranks, none. */
function adaptersFor({ inputs, outputs }: Shape) {
  const factors = (rank: number, seed: number, members: (i: number) => boolean) =>
    new Map(
      outputs.flatMap((count, i) =>
        members(i) ? [[`m${i}`, randomFactors(inputs, count, rank, seed + 10 * i)] as const] : [],
      ),
    )
  return [factors(1, 1, () => true), undefined, factors(8, 2, (i) => i !== 1), factors(37, 3, (i) => i !== 0)]
}

const slotOfRow = (row: number) => [2, 2, -1, 0, 3, 3, 3, 1][row % 8]!

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test('each row gains the change of its own adapter and no other', () => {
      for (const shape of shapes) {
        const adapted = new Adapted(kernels, shape, 'f32', 'F32', adaptersFor(shape))
        const { rows, inputs } = shape
        const x = numbers(rows * inputs, 7)
        const slots = Int32Array.from({ length: rows }, (_, row) => slotOfRow(row))
        const plain = adapted.run(x, undefined)
        const changed = adapted.run(x, slots)
        const columns = plain.length / rows
        for (let row = 0; row < rows; row++) {
          const own = plain.subarray(row * columns, (row + 1) * columns)
          const change = adapted.change(x.subarray(row * inputs, (row + 1) * inputs), slots[row]!)
          const expected = own.map((value, o) => value + change[o]!)
          expect(relativeError(changed.subarray(row * columns, (row + 1) * columns), expected)).toBeLessThan(
            2e-6,
          )
        }
      }
    })

    test('factors in bfloat16 give the change of the rounded factors', () => {
      const shape = shapes[2]!
      const [exact, rounded] = (['F32', 'BF16'] as const).map(
        (format) => new Adapted(kernels, shape, 'q8', format, adaptersFor(shape)),
      )
      const x = numbers(shape.rows * shape.inputs, 8)
      const slots = new Int32Array(shape.rows).fill(2)
      const error = relativeError(rounded!.run(x, slots), exact!.run(x, slots))
      expect(error).toBeGreaterThan(1e-5)
      expect(error).toBeLessThan(8e-3)
    })

    test('a gated layer changes both sides before it gates', () => {
      const shape: Shape = { rows: 5, inputs: 64, outputs: [48, 48], gated: true }
      const adapters = adaptersFor({ ...shape, outputs: [48, 48] })
      const gated = new Adapted(kernels, shape, 'f32', 'F32', adapters)
      const joined = new Adapted(kernels, { ...shape, gated: false }, 'f32', 'F32', adapters)
      const x = numbers(shape.rows * shape.inputs, 9)
      const slots = Int32Array.of(0, 2, 3, -1, 1)
      const sides = joined.run(x, slots)
      const expected = Array.from({ length: shape.rows * 48 }, (_, at) => {
        const [gate, up] = [0, 48].map((side) => sides[Math.floor(at / 48) * 96 + side + (at % 48)]!)
        return (gate! / (1 + Math.exp(-gate!))) * up!
      })
      expect(relativeError(gated.run(x, slots), expected)).toBeLessThan(2e-6)
    })

    test('a row has the same bits whatever adapters the rows beside it have', () => {
      const shape: Shape = { rows: 40, inputs: 96, outputs: [48, 17, 30] }
      for (const format of ['q8', 'bf16'] as const) {
        const adapted = new Adapted(kernels, shape, format, 'BF16', adaptersFor(shape))
        const { rows, inputs } = shape
        const x = numbers(rows * inputs, 10)
        const columns = 48 + 32 + 32
        const residual = numbers(rows * columns, 11)
        const slots = Int32Array.from({ length: rows }, (_, row) => slotOfRow(row))
        const together = adapted.run(x, slots, 3, residual)
        for (let row = 0; row < rows; row += 3) {
          const own = x.slice(row * inputs, (row + 1) * inputs)
          const part = (all: Float32Array) => all.slice(row * columns, (row + 1) * columns)
          const asked = slots[row] === -1 ? undefined : slots.slice(row, row + 1)
          const alone = adapted.run(own, asked, 1, part(residual))
          // Columns of no member hold what was there.
          const seen = (y: Float32Array) => y.filter((_, o) => o < 48 + 17 || o >= 48 + 32)
          expect(sameBits(seen(alone), seen(part(together))), `row ${row}`).toBe(true)
        }
      }
    })
  },
)
