import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import {
  expertProducts,
  type KernelOp,
  type KernelParams,
  matmulBehind,
} from '../../src/runtime/kernel-ops.ts'
import { KernelContext, type Kernels } from '../../src/runtime/kernels.ts'
import {
  bfloatTensor,
  everyKernels,
  type FakeTensor,
  fakeTensor,
  relativeError,
  runOp,
  sameBits,
} from './tensors.ts'

type Op = 'matmul_by_expert_f32' | 'matmul_by_expert_bf16'

function noise(count: number, seed: number): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

/** What `route` would give for slots of which each expert has so many, one use a row. */
function routesOf(counts: readonly number[]): Int32Array {
  const slots = counts.reduce((a, b) => a + b)
  const routes = new Int32Array(5 * slots + counts.length + 1)
  for (let i = 0; i < slots; i++) routes[i] = routes[slots + i] = i
  for (const [e, count] of counts.entries()) routes[4 * slots + e + 1] = routes[4 * slots + e]! + count
  return routes
}

const expertOf = (counts: readonly number[]) => counts.flatMap((count, e) => Array<number>(count).fill(e))

interface Case {
  counts: readonly number[]
  inputs: number
  outputs: number
}

const cases: readonly Case[] = [
  { counts: [1], inputs: 1, outputs: 1 },
  { counts: [3, 0, 1, 9], inputs: 33, outputs: 17 },
  // All in one, and more than a piece has rows.
  { counts: [0, 0, 410, 0], inputs: 40, outputs: 50 },
  // More inputs than one chunk, more outputs than a piece has.
  { counts: [5, 100, 0, 21], inputs: 430, outputs: 530 },
]

/** The three products in double precision, by plain loops. */
function expectedOf({ counts, inputs, outputs }: Case, x: Float32Array, w: Float32Array, dy: Float32Array) {
  const experts = expertOf(counts)
  const y = new Float64Array(experts.length * outputs)
  const dx = new Float64Array(experts.length * inputs)
  const dw = new Float64Array(counts.length * outputs * inputs)
  for (const [s, e] of experts.entries())
    for (let m = 0; m < outputs; m++)
      for (let k = 0; k < inputs; k++) {
        const at = (e * outputs + m) * inputs + k
        y[s * outputs + m]! += x[s * inputs + k]! * w[at]!
        dx[s * inputs + k]! += dy[s * outputs + m]! * w[at]!
        dw[at]! += dy[s * outputs + m]! * x[s * inputs + k]!
      }
  return { y, dx, dw }
}

function run<Name extends KernelOp>(
  kernels: Kernels,
  op: Name,
  params: KernelParams<Name>,
  shape: readonly number[],
  sources: readonly FakeTensor[],
  threads = 2,
): Float32Array {
  using context = new KernelContext(kernels)
  const call = context.call(op, params)
  // What was there before is no part of the result.
  const dst = fakeTensor(new Float32Array(shape.reduce((a, b) => a * b)).fill(7), shape, sources)
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Float32Array
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(['matmul_by_expert_f32', 'matmul_by_expert_bf16'] as const)(
      '%s gives each slot the product with its expert, and the gradients of both',
      (op: Op) => {
        for (const each of cases) {
          const { counts, inputs, outputs } = each
          const [slots, experts] = [counts.reduce((a, b) => a + b), counts.length]
          const [x, w] = [noise(slots * inputs, 1), noise(experts * outputs * inputs, 2)]
          const dy = noise(slots * outputs, 3)
          const { y, dx, dw } = expectedOf(each, x, w, dy)
          const table = routesOf(counts)
          const routes = fakeTensor(table, [table.length])
          const inX = fakeTensor(x, [slots, inputs])
          const inW = fakeTensor(w, [experts * outputs, inputs])
          const inDy = fakeTensor(dy, [slots, outputs])
          const product = (
            kind: keyof typeof expertProducts,
            shape: readonly number[],
            factors: readonly FakeTensor[],
            threads?: number,
          ) =>
            run(
              kernels,
              op,
              { experts, product: expertProducts[kind], behind: 0 },
              shape,
              [...factors, routes],
              threads,
            )
          const limit = op === 'matmul_by_expert_f32' ? 2e-6 : 1e-2
          for (const [kind, shape, factors, expected] of [
            ['outputs', [slots, outputs], [inX, inW], y],
            ['inputsBack', [slots, inputs], [inDy, inW], dx],
            ['weightsBack', [experts * outputs, inputs], [inDy, inX], dw],
          ] as const) {
            const found = product(kind, shape, factors)
            expect(relativeError(found, expected)).toBeLessThan(limit)
            for (const threads of [1, 3])
              expect(sameBits(product(kind, shape, factors, threads), found)).toBe(true)
          }
        }
      },
    )

    test('an expert gives the bits that its weight gives as a weight of its own, frozen in bfloat16 too', () => {
      const { counts, inputs, outputs } = cases[3]!
      const [slots, experts] = [counts.reduce((a, b) => a + b), counts.length]
      const [x, dy] = [noise(slots * inputs, 1), noise(slots * outputs, 3)]
      const halves = Uint16Array.from(noise(experts * outputs * inputs, 2), (value) => bfloatOf(value))
      const table = routesOf(counts)
      const routes = fakeTensor(table, [table.length])
      const weight = bfloatTensor(halves, [experts * outputs, inputs])
      const [e, first, count] = [1, 5, 100]
      const own = bfloatTensor(halves.subarray(e * outputs * inputs, (e + 1) * outputs * inputs), [
        outputs,
        inputs,
      ])
      for (const [kind, from, width, wide] of [
        ['outputs', x, inputs, outputs],
        ['inputsBack', dy, outputs, inputs],
      ] as const) {
        const params = { experts, product: expertProducts[kind], behind: 0 }
        const all = run(
          kernels,
          'matmul_by_expert_f32',
          params,
          [slots, wide],
          [fakeTensor(from, [slots, width]), weight, routes],
        )
        const alone = run(
          kernels,
          'matmul_f32',
          { aTransposed: 0, bTransposed: kind === 'outputs' ? 0 : 1, behind: 0 },
          [count, wide],
          [fakeTensor(from.subarray(first * width, (first + count) * width), [count, width]), own],
        )
        expect(sameBits(all.subarray(first * wide, (first + count) * wide), alone)).toBe(true)
      }
    })

    test('gradients of weights are added to what is there, and an expert without slots adds nothing', () => {
      const { counts, inputs, outputs } = cases[1]!
      const [slots, experts] = [counts.reduce((a, b) => a + b), counts.length]
      const [x, dy] = [noise(slots * inputs, 1), noise(slots * outputs, 3)]
      const before = noise(experts * outputs * inputs, 4)
      const table = routesOf(counts)
      const factors = [fakeTensor(dy, [slots, outputs]), fakeTensor(x, [slots, inputs])]
      const routes = fakeTensor(table, [table.length])
      const params = { experts, product: expertProducts.weightsBack }
      const op = 'matmul_by_expert_f32'
      const shape = [experts * outputs, inputs]
      const slope = run(kernels, op, { ...params, behind: 0 }, shape, [...factors, routes])
      const into = Float32Array.from(before)
      using context = new KernelContext(kernels)
      const dst = fakeTensor(new Float32Array(4), [4], [...factors, fakeTensor(into, shape), routes])
      runOp(kernels, context.call(op, { ...params, behind: matmulBehind.addsInto }), dst, 2)
      expect(
        sameBits(
          into,
          before.map((value, i) => value + slope[i]!),
        ),
      ).toBe(true)
    })

    test.each([0, 1])(
      'shares, normalised %i, hand gradients back as differences of the mixture do',
      (normalised) => {
        const [rows, experts, used, width] = [19, 7, 3, 21]
        const logits = noise(rows * experts, 11)
        const [made, dy] = [noise(rows * used * width, 12), noise(rows * width, 13)]
        const residual = fakeTensor(new Float32Array(rows * width), [rows, width])
        const slots = rows * used
        const route = (of: Float32Array) => {
          const bits = run(
            kernels,
            'route',
            { used, normalised },
            [5 * slots + experts + 1],
            [fakeTensor(of, [rows, experts])],
          )
          return fakeTensor(new Int32Array(bits.buffer), [bits.length])
        }
        const routes = route(logits)
        const [inMade, inDy] = [fakeTensor(made, [slots, width]), fakeTensor(dy, [rows, width])]
        const loss = (of: Float32Array, experts_ = made) => {
          const y = run(
            kernels,
            'mix_experts',
            { experts },
            [rows, width],
            [fakeTensor(experts_, [slots, width]), route(of), residual],
          )
          return y.reduce((sum, value, i) => sum + value * dy[i]!, 0)
        }
        const back = (threads: number) => {
          const slopes = run(
            kernels,
            'shares_by_expert_back',
            { experts },
            [slots, 1],
            [inDy, inMade, routes],
            threads,
          )
          const sources = [fakeTensor(slopes, [slots, 1]), fakeTensor(logits, [rows, experts]), routes]
          return {
            logits: run(kernels, 'route_back', { used, normalised }, [rows, experts], sources, threads),
            made: run(kernels, 'mix_experts_back', { experts }, [slots, width], [inDy, routes], threads),
          }
        }
        const found = back(2)
        for (const threads of [1, 3]) {
          const again = back(threads)
          expect(sameBits(again.logits, found.logits) && sameBits(again.made, found.made)).toBe(true)
        }
        const difference = (values: Float32Array, i: number, of: (values: Float32Array) => number) => {
          const moved = (by: number) => of(values.map((value, at) => (at === i ? value + by : value)))
          return (moved(1 / 256) - moved(-1 / 256)) * 128
        }
        const ofLogits = Float64Array.from(logits, (_, i) => difference(logits, i, loss))
        const ofMade = Float64Array.from({ length: 60 }, (_, i) =>
          difference(made, i, (values) => loss(logits, values)),
        )
        expect(relativeError(found.logits, ofLogits)).toBeLessThan(3e-3)
        expect(relativeError(found.made.subarray(0, 60), ofMade)).toBeLessThan(3e-3)
      },
    )
  },
)

function bfloatOf(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16
}
