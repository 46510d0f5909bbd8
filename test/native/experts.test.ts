import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { linearGates } from '../../src/runtime/kernel-ops.ts'
import { expertOps, KernelContext, type Kernels, type PackedFormat } from '../../src/runtime/kernels.ts'
import { activations, cases, epsilon, packed, runLinear } from './products.ts'
import {
  everyKernels,
  type FakeTensor,
  fakeTensor,
  normals,
  relativeError,
  runOp,
  runTwice,
  sameBits,
} from './tensors.ts'
import { randomWeight } from './weights.ts'

// N rows, E experts, K used by each row, S slots, W inputs, M outputs of an expert.

interface Shape {
  rows: number
  experts: number
  used: number
}

const shapes: readonly Shape[] = [
  { rows: 1, experts: 5, used: 2 },
  { rows: 7, experts: 8, used: 3 },
  { rows: 33, experts: 37, used: 8 },
  { rows: 3, experts: 4, used: 4 },
  { rows: 9, experts: 1, used: 1 },
  // More rows of one expert than a piece has.
  { rows: 420, experts: 3, used: 2 },
]

/** What `route` says, as its contract has it. */
interface Routes {
  row: Int32Array
  slotOfPair: Int32Array
  share: Float32Array
  cell: Int32Array
  start: Int32Array
  expert: Int32Array
}

function routesIn(plan: Int32Array, { rows, experts, used }: Shape): Routes {
  const slots = rows * used
  const part = (i: number) => plan.subarray(i * slots, (i + 1) * slots)
  const shares = part(2)
  return {
    row: part(0),
    slotOfPair: part(1),
    share: new Float32Array(shares.buffer, shares.byteOffset, slots),
    cell: part(3),
    start: plan.subarray(4 * slots, 4 * slots + experts + 1),
    expert: plan.subarray(4 * slots + experts + 1),
  }
}

function route(
  kernels: Kernels,
  logits: Float32Array,
  { rows, experts, used }: Shape,
  normalised: boolean,
  threads = 2,
): Int32Array {
  const length = 5 * rows * used + experts + 1
  const dst = fakeTensor(new Int32Array(length), [length], [fakeTensor(logits, [rows, experts])])
  using context = new KernelContext(kernels)
  const call = context.call('route', { used, normalised: normalised ? 1 : 0 })
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Int32Array
}

/** Experts of a row by rank, and their shares. */
function chosenOf(logits: Float32Array, used: number, normalised: boolean) {
  const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b).slice(0, used)
  const power = (e: number) => Math.exp(logits[e]! - logits[order[0]!]!)
  const sum = (normalised ? order : [...logits.keys()]).reduce((all, e) => all + power(e), 0)
  return order.map((expert) => ({ expert, share: power(expert) / sum }))
}

/** Tiles add even and odd inputs apart; rows of experts are too few for them and go by vectors. */
const summedByTiles = ({ instructionSet }: Kernels, format: PackedFormat) =>
  format === 'bf16' && instructionSet.startsWith('amx')

const gatesOf = (gated: keyof typeof linearGates | undefined) => (gated ? linearGates[gated] : 0)

interface Product {
  format: PackedFormat
  weight: Uint8Array
  inputs: number
  outputs: number
  gated?: keyof typeof linearGates
  norm?: Float32Array
  bias?: Float32Array
  limit?: number
}

function multiply(
  kernels: Kernels,
  { format, weight, inputs, outputs, gated, norm, bias, limit = 0 }: Product,
  x: FakeTensor,
  plan: Int32Array,
  { rows, experts, used }: Shape,
  bySlots: boolean,
  threads = 2,
): Float32Array {
  return runTwice(
    kernels,
    expertOps[format],
    {
      experts,
      bySlots: bySlots ? 1 : 0,
      normed: norm ? 1 : 0,
      gated: gatesOf(gated),
      biased: bias ? 1 : 0,
      epsilon,
      limit,
    },
    [rows * used, outputs],
    [
      x,
      fakeTensor(weight, [weight.length]),
      fakeTensor(plan, [plan.length]),
      ...(norm ? [fakeTensor(norm, [inputs])] : []),
      ...(bias ? [fakeTensor(bias, [bias.length])] : []),
    ],
    { threads },
  )
}

/** Each expert's weight packed by itself, and all of them below one another. */
function weightsOf(
  kernels: Kernels,
  [format, dtype]: (typeof cases)[number],
  { experts, inputs, outputs, gated }: { experts: number; inputs: number; outputs: number; gated: boolean },
) {
  const members = gated ? (['gate', 'up'] as const) : (['whole'] as const)
  const alone = Array.from(
    { length: experts },
    () => new Uint8Array(kernels.packedBytes(format, outputs, inputs, gated)),
  )
  const together = new Uint8Array(kernels.packedBytes(format, experts * outputs, inputs, gated))
  for (let e = 0; e < experts; e++)
    for (const [i, interleave] of members.entries()) {
      const { source } = randomWeight(dtype, outputs, inputs, 10 * e + i)
      kernels.packRows(format, alone[e]!, inputs, 0, source, interleave)
      kernels.packRows(format, together, inputs, e * outputs, source, interleave)
    }
  return { alone, together }
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(shapes)(
      '$used of $experts experts are chosen for $rows rows, and their slots sorted',
      (shape) => {
        const { rows, experts, used } = shape
        const logits = normals(rows * experts, 3)
        // Equal ones: the first is taken.
        for (let e = 0; e < experts; e++) logits[e] = e % 2
        for (const normalised of [true, false]) {
          const plan = route(kernels, logits, shape, normalised)
          const { row, slotOfPair, share, cell, start, expert } = routesIn(plan, shape)
          expect(expert.length).toBe(rows * used)
          expect([start[0], start[experts]]).toEqual([0, rows * used])
          for (let n = 0; n < rows; n++)
            for (const [k, wanted] of chosenOf(
              logits.subarray(n * experts, (n + 1) * experts),
              used,
              normalised,
            ).entries()) {
              const slot = slotOfPair[n * used + k]!
              expect([row[slot], cell[slot]]).toEqual([n, n * experts + wanted.expert])
              expect(expert[slot]).toBe(wanted.expert)
              expect(slot).toBeGreaterThanOrEqual(start[wanted.expert]!)
              expect(slot).toBeLessThan(start[wanted.expert + 1]!)
              expect(share[slot]).toBeCloseTo(wanted.share, 5)
            }
          for (let slot = 1; slot < rows * used; slot++)
            if (!start.includes(slot)) expect(row[slot]).toBeGreaterThan(row[slot - 1]!)
          for (const threads of [1, 3])
            expect(sameBits(route(kernels, logits, shape, normalised, threads), plan)).toBe(true)
        }
      },
    )

    test('a row whose logits are no numbers has no shares, and the others keep theirs', () => {
      const shape = { rows: 5, experts: 7, used: 3 }
      const logits = normals(35, 4)
      const clean = routesIn(route(kernels, logits, shape, true), shape)
      for (const poison of [Number.NaN, Number.POSITIVE_INFINITY])
        for (const places of [[14], [14, 15, 16, 17, 18, 19, 20]]) {
          const broken = logits.slice()
          for (const place of places) broken[place] = poison
          const found = routesIn(route(kernels, broken, shape, true), shape)
          for (let pair = 0; pair < 15; pair++) {
            const share = found.share[found.slotOfPair[pair]!]!
            if (Math.floor(pair / 3) === 2) expect(share).toBeNaN()
            else expect(share).toBe(clean.share[clean.slotOfPair[pair]!])
          }
          expect([...found.cell].every((cell) => cell >= 0 && cell < 35)).toBe(true)
        }
    })

    test.each(cases)('%s from %s: an expert gives the bits of a weight of its own', (format, dtype) => {
      const inputs = dtype.endsWith('_K') ? 512 : 160
      for (const shape of shapes.slice(0, 4)) {
        const { rows, experts, used } = shape
        const plan = route(kernels, normals(rows * experts, 5), shape, true)
        const { row, start } = routesIn(plan, shape)
        const norm = normals(inputs, 6)
        for (const [outputs, gated] of [
          [96, undefined],
          [32, undefined],
          [48, 'silu'],
          [16, 'gelu'],
        ] as const) {
          const { alone, together } = weightsOf(kernels, [format, dtype], {
            experts,
            inputs,
            outputs,
            gated: gated !== undefined,
          })
          const bySlots = gated === undefined
          const x = activations(bySlots ? rows * used : rows, inputs)
          const product = { format, weight: together, inputs, outputs, ...(gated && { gated, norm }) }
          const ofAll = multiply(
            kernels,
            product,
            fakeTensor(x, [x.length / inputs, inputs]),
            plan,
            shape,
            bySlots,
          )
          for (let e = 0; e < experts; e++) {
            const slots = [...row.keys()].slice(start[e], start[e + 1])
            const own = Float32Array.from(
              slots.flatMap((slot) => {
                const from = bySlots ? slot : row[slot]!
                return [...x.subarray(from * inputs, (from + 1) * inputs)]
              }),
            )
            if (slots.length === 0) continue
            const expected = runLinear(
              kernels,
              format,
              fakeTensor(own, [slots.length, inputs]),
              [slots.length, inputs, outputs],
              alone[e]!,
              gated === undefined ? {} : { gated, norm },
            )
            const found = ofAll.slice(start[e]! * outputs, start[e + 1]! * outputs)
            if (summedByTiles(kernels, format)) expect(relativeError(found, expected)).toBeLessThan(1e-5)
            else expect(sameBits(found, expected)).toBe(true)
          }
        }
      }
    })

    test.each([
      { inputs: 96, outputs: 48 },
      // A panel without a partner, whose sums are stored one by one.
      { inputs: 64, outputs: 16 },
    ])('biases of experts are added before clamped gates, and behind down ($outputs wide)', (sizes) => {
      const { inputs, outputs } = sizes
      const shape = { rows: 11, experts: 5, used: 2 }
      const { rows, experts, used } = shape
      const plan = route(kernels, normals(rows * experts, 5), shape, true)
      const { row, expert } = routesIn(plan, shape)
      const values = [0, 1].map((member) =>
        Array.from({ length: experts }, (_, e) => randomWeight('F32', outputs, inputs, 10 * e + member)),
      )
      const x = activations(rows, inputs)
      const slots = rows * used
      const dot = (weight: Float64Array, output: number, slot: number) => {
        let sum = 0
        for (let i = 0; i < inputs; i++) sum += weight[output * inputs + i]! * x[row[slot]! * inputs + i]!
        return sum
      }
      const limit = 3
      const bias = normals(experts * 2 * outputs, 7)
      const { together } = weightsOf(kernels, ['f32', 'F32'], { experts, inputs, outputs, gated: true })
      const product = {
        format: 'f32',
        weight: together,
        inputs,
        outputs,
        gated: 'clamped',
        bias,
        limit,
      } as const
      const found = multiply(kernels, product, fakeTensor(x, [rows, inputs]), plan, shape, false)
      const expected = Float64Array.from({ length: slots * outputs }, (_, at) => {
        const [slot, output] = [Math.floor(at / outputs), at % outputs]
        const e = expert[slot]!
        const sum = (member: number) =>
          dot(values[member]![e]!.values, output, slot) + bias[(2 * e + member) * outputs + output]!
        const [gate, up] = [Math.min(limit, sum(0)), Math.max(-limit, Math.min(limit, sum(1)))]
        return (gate / (1 + Math.exp(-1.702 * gate))) * (up + 1)
      })
      expect(expected.filter((_, at) => at % outputs === 3).some((y) => Math.abs(y) > limit)).toBe(true)
      expect(relativeError(found, expected)).toBeLessThan(1e-5)

      const downs = normals(experts * 32, 8)
      const down = weightsOf(kernels, ['f32', 'F32'], { experts, inputs, outputs: 32, gated: false }).together
      const plain = { format: 'f32', weight: down, inputs, outputs: 32, bias: downs } as const
      const bySlots = activations(slots, inputs)
      const made = multiply(kernels, plain, fakeTensor(bySlots, [slots, inputs]), plan, shape, true)
      const { bias: _, ...without } = plain
      const bare = multiply(kernels, without, fakeTensor(bySlots, [slots, inputs]), plan, shape, true)
      for (const [at, value] of made.entries())
        expect(value).toBe(Math.fround(bare[at]! + downs[expert[Math.floor(at / 32)]! * 32 + (at % 32)]!))
      const poisoned = bias.slice()
      poisoned[0] = Number.NaN
      const broken = multiply(
        kernels,
        { ...product, bias: poisoned },
        fakeTensor(x, [rows, inputs]),
        plan,
        shape,
        false,
      )
      for (const [at, value] of broken.entries()) {
        if (at % outputs === 0 && expert[Math.floor(at / outputs)] === 0) expect(value).toBeNaN()
        else expect(value).toBe(found[at])
      }
    })

    test.each(['q8', 'q4k', 'mx4', 'f16', 'bf16', 'f32'] as const)(
      '%s: threads and many rows of one expert change no bit',
      (format) => {
        const shape = shapes[5]!
        const { rows, experts, used } = shape
        const [inputs, outputs] = [256, 64]
        const source = cases.find(([name]) => name === format)!
        const { alone, together } = weightsOf(kernels, source, { experts, inputs, outputs, gated: false })
        const logits = normals(rows * experts, 7)
        // Nobody wants the second.
        for (let n = 0; n < rows; n++) logits[n * experts + 1] = -10
        const plan = route(kernels, logits, shape, false)
        const { start } = routesIn(plan, shape)
        expect([start[1], start[2]]).toEqual([rows, rows])
        const x = activations(rows * used, inputs)
        const product = { format, weight: together, inputs, outputs }
        const results = [1, 2, 4].map((threads) =>
          multiply(kernels, product, fakeTensor(x, [rows * used, inputs]), plan, shape, true, threads),
        )
        for (const result of results) expect(sameBits(result, results[0]!)).toBe(true)
        for (const [expert, first] of [
          [0, 0],
          [2, rows],
        ] as const) {
          const expected = runLinear(
            kernels,
            format,
            fakeTensor(x.slice(first * inputs, (first + rows) * inputs), [rows, inputs]),
            [rows, inputs, outputs],
            alone[expert]!,
          )
          const found = results[0]!.slice(first * outputs, (first + rows) * outputs)
          if (summedByTiles(kernels, format)) expect(relativeError(found, expected)).toBeLessThan(1e-5)
          else expect(sameBits(found, expected)).toBe(true)
        }
      },
    )

    test.each([1, 50, 1030])(
      'what experts made is added by shares in the order of ranks, %i wide',
      (width) => {
        const shape = { rows: 7, experts: 6, used: 3 }
        const plan = route(kernels, normals(42, 8), shape, true)
        const { slotOfPair, share } = routesIn(plan, shape)
        const made = normals(21 * width, 9)
        const residual = normals(7 * width, 10)
        const mixed = runTwice(
          kernels,
          'mix_experts',
          { experts: 6 },
          [7, width],
          [fakeTensor(made, [21, width]), fakeTensor(plan, [plan.length]), fakeTensor(residual, [7, width])],
        )
        const expected = Float64Array.from(residual, (start, at) => {
          const [n, i] = [Math.floor(at / width), at % width]
          return [0, 1, 2].reduce((sum, k) => {
            const slot = slotOfPair[n * 3 + k]!
            return sum + share[slot]! * made[slot * width + i]!
          }, start)
        })
        expect(relativeError(mixed, expected)).toBeLessThan(1e-6)
      },
    )

    test('the whole of a row does not depend on who else is there, nor on its place', () => {
      const { experts, used } = { experts: 9, used: 2 }
      const [inputs, width] = [96, 64]
      const gateUp = weightsOf(kernels, ['q8', 'Q8_0'], {
        experts,
        inputs,
        outputs: width,
        gated: true,
      }).together
      const down = weightsOf(kernels, ['q8', 'Q8_0'], {
        experts,
        inputs: width,
        outputs: inputs,
        gated: false,
      }).together
      const router = packed(kernels, 'f32', randomWeight('F32', experts, inputs, 1), inputs)
      const norm = normals(inputs, 11)
      const forward = (x: Float32Array) => {
        const rows = x.length / inputs
        const shape = { rows, experts, used }
        const input = fakeTensor(x, [rows, inputs])
        const logits = runLinear(kernels, 'f32', input, [rows, inputs, experts], router, { norm })
        const plan = route(kernels, logits, shape, true)
        const gated = { format: 'q8', weight: gateUp, inputs, outputs: width, gated: 'silu', norm } as const
        const open = multiply(kernels, gated, input, plan, shape, false)
        const ungated = { format: 'q8', weight: down, inputs: width, outputs: inputs } as const
        const made = multiply(kernels, ungated, fakeTensor(open, [rows * used, width]), plan, shape, true)
        return runTwice(
          kernels,
          'mix_experts',
          { experts },
          [rows, inputs],
          [fakeTensor(made, [rows * used, inputs]), fakeTensor(plan, [plan.length]), input],
        )
      }
      const x = normals(23 * inputs, 12)
      const all = forward(x)
      expect(all.some((value, i) => value !== x[i])).toBe(true)
      const random = new Random(2)
      for (let turn = 0; turn < 12; turn++) {
        const first = random.integer(22)
        const count = 1 + random.integer(22 - first)
        const some = forward(x.slice(first * inputs, (first + count) * inputs))
        expect(sameBits(some, all.slice(first * inputs, (first + count) * inputs))).toBe(true)
      }
    })
  },
)
