import koffi from 'koffi'
import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { quantize } from '../../src/formats/convert.ts'
import { type AdapterFactors, type FactorFormat, packAdapter } from '../../src/models/packed-adapters.ts'
import { KernelContext, type Kernels, linearOps, type PackedFormat } from '../../src/runtime/kernels.ts'
import { rounded, scaledTogether } from './products.ts'
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

function inCodes(numbers: ArrayLike<number>, scale: number): Float64Array {
  return Float64Array.from(numbers, (x) => (scale > 0 ? Math.round(x / scale) * scale : 0))
}

/** Numbers as codes of 8 bits, those of each `count` with one scale: the smallest in bfloat16 that none is 127 times above. */
function eightBits(numbers: Float32Array, count: number): Float64Array {
  const out = new Float64Array(numbers.length)
  for (let at = 0; at < numbers.length; at += count) {
    const group = numbers.subarray(at, at + count)
    const exact = group.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127
    const unit = 2 ** (Math.floor(Math.log2(exact)) - 7)
    out.set(inCodes(group, exact > 0 ? Math.ceil(exact / unit) * unit : 0), at)
  }
  return out
}

function codedFactors({ inputs, rank, a, b }: AdapterFactors): [Float64Array, Float64Array] {
  const coded = new Float64Array(a.length)
  for (let r = 0; r < rank; r++)
    coded.set(eightBits(a.subarray(r * inputs, (r + 1) * inputs), 256), r * inputs)
  return [coded, eightBits(b, rank)]
}

/** A packed weight of several members and adapters of it, in every slot but those that are left out. */
class Adapted {
  readonly shape: Shape
  readonly kernels: Kernels
  readonly adapters: readonly (ReadonlyMap<string, AdapterFactors> | undefined)[]
  readonly format: PackedFormat
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
    this.format = format
    const { inputs, outputs, gated = false } = shape
    let columns = 0
    for (const count of outputs) {
      this.#firsts.push(columns)
      columns += Math.ceil(count / 16) * 16
    }
    this.#columns = gated ? outputs[0]! : columns
    this.#packed = new Uint8Array(kernels.packedBytes(format, this.#columns, inputs, gated))
    for (const [i, rows] of outputs.entries()) {
      const dtype = inputs % 32 !== 0 ? 'F32' : format === 'q8' ? 'Q8_0' : format === 'q4s' ? 'Q4_0' : 'F32'
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
    const call = context.call(linearOps[this.format], {
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

  /**
   * What the adapter in `slot` adds to one row, in the columns of the result; plain loops in double precision. With
   * `coded` as codes make it.
   */
  change(x: ArrayLike<number>, slot: number, coded = false): Float64Array {
    const out = new Float64Array(this.#columns)
    for (const [i, first] of this.#firsts.entries()) {
      const factors = slot < 0 ? undefined : this.adapters[slot]?.get(`m${i}`)
      if (factors === undefined) continue
      const { rank, inputs, outputs, scale } = factors
      const [a, b] = coded ? codedFactors(factors) : [factors.a, factors.b]
      let lowered: Float64Array = Float64Array.from({ length: rank }, (_, r) => {
        let sum = 0
        for (let k = 0; k < inputs; k++) sum += x[k]! * a[r * inputs + k]!
        return sum
      })
      if (coded) lowered = inCodes(lowered, lowered.reduce((most, y) => Math.max(most, Math.abs(y)), 0) / 127)
      for (let o = 0; o < outputs; o++)
        for (let r = 0; r < rank; r++) out[first + o]! += scale * lowered[r]! * b[o * rank + r]!
    }
    return out
  }
}

const shapes: readonly Shape[] = [
  { rows: 1, inputs: 32, outputs: [1] },
  { rows: 3, inputs: 64, outputs: [33] },
  { rows: 21, inputs: 96, outputs: [48, 17, 30] },
]

/** Multiples of nothing. */
const oddShapes: readonly Shape[] = [
  { rows: 1, inputs: 5, outputs: [3] },
  { rows: 9, inputs: 77, outputs: [50, 33] },
  { rows: 14, inputs: 301, outputs: [19, 48, 31, 16] },
  { rows: 6, inputs: 130, outputs: [39, 39], gated: true },
]

/** An adapter whose ranks of a member are those that `rankOf` says; 0 leaves it out. */
function adapterOf({ inputs, outputs }: Shape, seed: number, rankOf: (i: number) => number) {
  return new Map(
    outputs.flatMap((count, i) =>
      rankOf(i) > 0 ? [[`m${i}`, randomFactors(inputs, count, rankOf(i), seed + 10 * i)] as const] : [],
    ),
  )
}

/** One adapter of one rank, one that leaves members out, one of many ranks, none. */
function adaptersFor(shape: Shape) {
  return [
    adapterOf(shape, 1, () => 1),
    undefined,
    adapterOf(shape, 2, (i) => (i !== 1 ? 8 : 0)),
    adapterOf(shape, 3, (i) => (i !== 0 ? 37 : 0)),
  ]
}

const slotOfRow = (row: number) => [2, 2, -1, 0, 3, 3, 3, 1][row % 8]!

/** Neighbours with one adapter: more than go together anywhere, fewer, and alone. */
const neighbours = { slots: [2, -1, 0, 3, 4, 1, 0, 3, 2, 1], counts: [37, 1, 5, 26, 2, 18, 1, 3, 8, 34] }
const slotsInRuns = neighbours.slots.flatMap((slot, i) => new Array<number>(neighbours.counts[i]!).fill(slot))
/** Neighbours go together by 4 from 32 rows on, by 8 from 128 on. */
const rowCounts = [40, slotsInRuns.length] as const

/**
 * Every row is what it is without adapters, and to `bound` the change of its own; `coded` as codes make it. By some seeds a
 * lowered sum lies so close between two codes that double precision takes the other one.
 */
function expectChanges(adapted: Adapted, seed: number, coded: boolean, bound: number): void {
  const { rows, inputs } = adapted.shape
  const x = numbers(rows * inputs, seed)
  const slots = Int32Array.from({ length: rows }, (_, row) => slotOfRow(row))
  const [plain, changed] = [adapted.run(x, undefined), adapted.run(x, slots)]
  const columns = plain.length / rows
  for (let row = 0; row < rows; row++) {
    const of = (y: Float32Array) => y.subarray(row * columns, (row + 1) * columns)
    const own = x.subarray(row * inputs, (row + 1) * inputs)
    const codes = coded ? rounded(own, scaledTogether(adapted.format)) : own
    const change = adapted.change(codes, slots[row]!, coded)
    const expected = of(plain).map((value, o) => value + change[o]!)
    expect(relativeError(of(changed), expected)).toBeLessThan(bound)
    if (slots[row] === -1 || slots[row] === 1) expect(sameBits(of(changed), of(plain))).toBe(true)
  }
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test('each row gains the change of its own adapter and no other', () => {
      for (const shape of shapes)
        expectChanges(new Adapted(kernels, shape, 'f32', 'F32', adaptersFor(shape)), 7, false, 2e-6)
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

    test('factors in codes give the change of the codes, in shapes that are multiples of nothing', () => {
      for (const shape of [...shapes, ...oddShapes.filter(({ gated }) => !gated)])
        expectChanges(new Adapted(kernels, shape, 'q8', 'I8', adaptersFor(shape)), 12, true, 1e-5)
    })

    test.each([
      ['q8', 'I8', 1e-5],
      ['f32', 'F32', 2e-6],
      ['bf16', 'BF16', 8e-3],
    ] as const)(
      'beside %s factors in %s change every panel of those that a thread takes at once',
      (...of) => {
        const [format, factors, bound] = of
        // By one thread runs are as long as they get; of 200 rows they are cut by what the sums take.
        for (const rows of [1, 21, 200]) {
          const shape: Shape = { rows, inputs: 64, outputs: [1701, 40, 400] }
          const adapted = new Adapted(kernels, shape, format, factors, adaptersFor(shape))
          expectChanges(adapted, 17, factors === 'I8', bound)
          const x = numbers(rows * 64, 18)
          const slots = Int32Array.from({ length: rows }, (_, row) => slotOfRow(row))
          expect(sameBits(adapted.run(x, slots, 1), adapted.run(x, slots, 3))).toBe(true)
        }
      },
    )

    test('factors in codes take the codes of activations beside weights of four bits, too', () => {
      for (const shape of [...shapes, { rows: 9, inputs: 416, outputs: [48, 17] }])
        expectChanges(new Adapted(kernels, shape, 'q4s', 'I8', adaptersFor(shape)), 12, true, 1e-5)
    })

    test('what codes of factors lose is far less than what the codes of the base lose', () => {
      const shape: Shape = { rows: 12, inputs: 896, outputs: [256] }
      const [rank, [outputs]] = [16, shape.outputs as [number]]
      // What an adapter adds is a third of what it is added to.
      const factors = { ...randomFactors(shape.inputs, outputs, rank, 3), scale: 1 / 3 / Math.sqrt(rank) }
      const layers = [new Map([['m0', factors]])]
      const x = numbers(shape.rows * shape.inputs, 13)
      const slots = new Int32Array(shape.rows)
      const of = (base: PackedFormat, format: FactorFormat, with_ = true) =>
        new Adapted(kernels, shape, base, format, layers).run(x, with_ ? slots : undefined)
      const distance = (a: Float32Array, b: Float32Array) =>
        Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0))
      const ofBase = distance(of('q8', 'F32', false), of('f32', 'F32', false))
      const ofCodes = distance(of('q8', 'I8'), of('q8', 'F32'))
      expect(ofCodes).toBeGreaterThan(0)
      expect(ofCodes).toBeLessThan(0.6 * ofBase)
      // All of it together is hardly further from exact numbers than with exact factors.
      const exact = of('f32', 'F32')
      expect(distance(of('q8', 'I8'), exact)).toBeLessThan(1.15 * distance(of('q8', 'F32'), exact))
    })

    test('factors in codes may be as small as floats are', () => {
      const shape: Shape = { rows: 3, inputs: 96, outputs: [48] }
      const factors = randomFactors(96, 48, 6, 5)
      const small = {
        ...factors,
        scale: 2 ** 60,
        a: factors.a.map((v) => v * 2 ** -40),
        b: factors.b.map((v) => v * 2 ** -20),
      }
      const [one, other] = [factors, small].map((own) => {
        const scaled = own === factors ? { ...own, scale: 1 } : own
        return new Adapted(kernels, shape, 'q8', 'I8', [new Map([['m0', scaled]])])
      })
      const x = numbers(3 * 96, 14)
      const slots = new Int32Array(3)
      expect(sameBits(one!.run(x, slots), other!.run(x, slots))).toBe(true)
    })

    test('a factor that is no number leaves none, and other rows keep their bits', () => {
      const shape: Shape = { rows: 7, inputs: 130, outputs: [33, 20] }
      const adapters = adaptersFor(shape)
      const x = numbers(7 * 130, 15)
      const slots = Int32Array.of(0, 2, 3, 2, -1, 0, 2)
      const clean = new Adapted(kernels, shape, 'q8', 'I8', adapters).run(x, slots)
      const columns = clean.length / 7
      for (const poison of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
        for (const side of ['a', 'b'] as const) {
          const broken = adapters[2]!.get('m0')!
          const values = broken[side].slice()
          values[5 * (side === 'a' ? 130 : 8) + 7] = poison
          const mixed = [...adapters]
          mixed[2] = new Map([['m0', { ...broken, [side]: values }]])
          const found = new Adapted(kernels, shape, 'q8', 'I8', mixed).run(x, slots)
          for (let row = 0; row < 7; row++) {
            const of = (y: Float32Array) => y.subarray(row * columns, (row + 1) * columns)
            if (slots[row] !== 2) expect(sameBits(of(found), of(clean))).toBe(true)
            else if (side === 'a') expect(of(found).subarray(0, 33).some(Number.isFinite)).toBe(false)
            else
              for (let o = 0; o < 33; o++) expect(Number.isFinite(of(found)[o]!), `output ${o}`).toBe(o !== 5)
          }
        }
    })

    test('a row that is no number stays none beside an adapter in codes', () => {
      const shape: Shape = { rows: 5, inputs: 130, outputs: [33] }
      const adapted = new Adapted(kernels, shape, 'q8', 'I8', adaptersFor({ ...shape, outputs: [33] }))
      const slots = Int32Array.of(0, 3, 3, -1, 0)
      const x = numbers(5 * 130, 16)
      const clean = adapted.run(x, slots)
      const broken = x.slice()
      broken[130 + 77] = Number.NaN
      const found = adapted.run(broken, slots)
      const columns = clean.length / 5
      expect(found.subarray(columns, columns + 33).some(Number.isFinite)).toBe(false)
      expect(sameBits(found.subarray(2 * columns), clean.subarray(2 * columns))).toBe(true)
      expect(sameBits(found.subarray(0, columns), clean.subarray(0, columns))).toBe(true)
    })

    test.each([
      ['f32', 'F32', 48, 2e-6],
      ['q8', 'I8', 48, 3e-6],
      ['q8', 'I8', 1008, 3e-6],
    ] as const)(
      'a gated layer of %s and factors in %s changes both sides before it gates, %i outputs',
      (...of) => {
        const [format, factors, columns, bound] = of
        const shape: Shape = { rows: 5, inputs: 64, outputs: [columns, columns], gated: true }
        const adapters = adaptersFor(shape)
        const gated = new Adapted(kernels, shape, format, factors, adapters)
        const joined = new Adapted(kernels, { ...shape, gated: false }, format, factors, adapters)
        const x = numbers(shape.rows * shape.inputs, 9)
        const slots = Int32Array.of(0, 2, 3, -1, 1)
        const sides = joined.run(x, slots)
        const expected = Array.from({ length: shape.rows * columns }, (_, at) => {
          const row = Math.floor(at / columns) * 2 * columns
          const [gate, up] = [0, columns].map((side) => sides[row + side + (at % columns)]!)
          return (gate! / (1 + Math.exp(-gate!))) * up!
        })
        expect(relativeError(gated.run(x, slots), expected)).toBeLessThan(bound)
      },
    )

    test('a row has the same bits whatever adapters the rows beside it have, and however many have its own', () => {
      for (const [format, factors] of [
        ['q8', 'BF16'],
        ['q8', 'I8'],
        ['bf16', 'BF16'],
        ['f32', 'F32'],
      ] as const)
        for (const rows of rowCounts) {
          const shape: Shape = { rows, inputs: 301, outputs: [48, 17, 30] }
          const { inputs } = shape
          const adapters = [4, 8, 16, 64].map((rank, i) => adapterOf(shape, i, (m) => (m === i ? 0 : rank)))
          const adapted = new Adapted(kernels, shape, format, factors, [...adapters, undefined])
          const x = numbers(rows * inputs, 10)
          const columns = 48 + 32 + 32
          const residual = numbers(rows * columns, 11)
          const slots = Int32Array.from(slotsInRuns.slice(-rows))
          const together = adapted.run(x, slots, 3, residual)
          for (let row = 0; row < rows; row += 3) {
            const own = x.slice(row * inputs, (row + 1) * inputs)
            const part = (all: Float32Array) => all.slice(row * columns, (row + 1) * columns)
            const asked = slots[row] === -1 ? undefined : slots.slice(row, row + 1)
            const alone = adapted.run(own, asked, 1, part(residual))
            // Columns of no member hold what was there.
            const seen = (y: Float32Array) => y.filter((_, o) => o < 48 + 17 || o >= 48 + 32)
            expect(sameBits(seen(alone), seen(part(together))), `row ${row} of ${rows}`).toBe(true)
          }
        }
    })
  },
)
