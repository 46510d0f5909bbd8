import { describe, expect, test } from 'vitest'
import { Device } from '../../src/runtime/device.ts'
import { Graph } from '../../src/runtime/graph.ts'
import { KernelContext, loadKernels } from '../../src/runtime/kernels.ts'
import type { RopeAttributes } from '../../src/runtime/op-attributes.ts'
import type { Ops } from '../../src/runtime/ops.ts'
import type { Tensor } from '../../src/runtime/tensor.ts'
import { backward } from '../../src/train/backward.ts'
import { gradients } from '../../src/train/gradients.ts'
import { trainedMixture } from '../../src/train/mixture.ts'
import {
  array,
  at,
  elementwise,
  generate,
  map,
  type NumberArray,
  product,
  randomArray,
  rowwise,
} from './arrays.ts'

const device = new Device({ device: 'cpu', threads: 1 })

interface Case {
  name: string
  /** Shapes of the differentiated inputs. */
  shapes: number[][]
  /** Integers that the op reads, such as ids and positions. */
  integers?: number[]
  /** Constants that are not differentiated, such as a mask. */
  constants?: NumberArray[]
  /** Added to the random inputs, to stay clear of poles. */
  offset?: number
  build: (ops: Ops, inputs: Tensor[], integers: Tensor, constants: Tensor[]) => Tensor
  plain: (inputs: NumberArray[]) => NumberArray
}

const rope: RopeAttributes = {
  dimensions: 6,
  layout: 'neox',
  base: 10000,
  scale: 1,
  contextOriginal: 64,
  extFactor: 0,
  attnFactor: 1,
  betaFast: 32,
  betaSlow: 1,
}
const positions = [0, 1, 5, 2, 17]
const ids = [2, 0, 2, 4, 2]
const causal = generate([7, 7], ([row, column]) => (column! > row! ? -Infinity : 0))

function softmaxOf(row: number[], scale: number, mask: (column: number) => number): number[] {
  const scores = row.map((value, i) => value * scale + mask(i))
  const top = Math.max(...scores)
  const powers = scores.map((score) => Math.exp(score - top))
  const sum = powers.reduce((a, b) => a + b)
  return powers.map((power) => power / sum)
}

function turned(x: NumberArray, factor: (pair: number) => number): NumberArray {
  const [, , width] = x.shape as [number, number, number]
  const half = rope.dimensions / 2
  return generate(x.shape, (place) => {
    const [token, head, i] = place as [number, number, number]
    if (i >= rope.dimensions) return at(x, place)
    const pair = i % half
    const angle = positions[token]! / (factor(pair) * rope.base ** ((2 * pair) / rope.dimensions))
    const [low, high] = [at(x, [token, head, pair]), at(x, [token, head, pair + half])]
    expect(width).toBeGreaterThanOrEqual(rope.dimensions)
    return i < half
      ? low * Math.cos(angle) - high * Math.sin(angle)
      : high * Math.cos(angle) + low * Math.sin(angle)
  })
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
const gelu = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
const rms = (row: number[], epsilon: number) => {
  const scale = 1 / Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / row.length + epsilon)
  return row.map((x) => x * scale)
}
const centred = (row: number[]) => {
  const mean = row.reduce((a, b) => a + b) / row.length
  return row.map((x) => x - mean)
}
const factors = array([3], (i) => [1, 2.5, 4][i]!)

/** A mixture of four experts of three, two of which a row uses, behind a norm: [rows, 7]. With a limit, as gpt-oss has them. */
function mixtureCase(normalised: boolean, limit?: number): Case {
  const [experts, used, wide] = [4, 2, 3]
  const names = { router: 'router', gate: 'gate', up: 'up', down: 'down' }
  const expert = (w: NumberArray, e: number) => {
    const rows = w.shape[0]! / experts
    return generate([rows, w.shape[1]!], ([row, column]) => at(w, [e * rows + row!, column!]))
  }
  return {
    name: `a mixture of experts${normalised ? ' whose shares sum to one' : ''}${limit ? ' with biases and clamped gates' : ''}`,
    shapes: [
      ...[[6, 7], [7], [experts, 7], [experts * wide, 7], [experts * wide, 7], [experts * 7, wide]],
      ...(limit ? [[experts], [experts, wide], [experts, wide], [experts, 7]] : []),
    ],
    build: (ops, [x, scale, router, gate, up, down, ...biases]) => {
      const weights: Record<string, Tensor> = { router: router!, gate: gate!, up: up!, down: down! }
      for (const [i, bias] of biases.entries()) weights[`${Object.keys(names)[i]}.bias`] = bias
      const parameters = {
        weight: (name: string) => weights[name.replace('.weight', '')]!,
        has: (name: string) => name in weights,
      }
      const norm = { weight: scale!, epsilon: 1e-5 }
      return trainedMixture(ops, parameters)(
        x!,
        names,
        { experts, used, normalised, ...(limit && { limit }) },
        norm,
        x!,
      )
    },
    plain: ([x, scale, router, gate, up, down, ...biases]) => {
      const biased = (y: NumberArray, which: number, e?: number) =>
        generate(y.shape, ([row, column]) => {
          const bias = biases[which]
          if (bias === undefined) return at(y, [row!, column!])
          return at(y, [row!, column!]) + at(bias, e === undefined ? [column!] : [e, column!])
        })
      const open = (g: number, u: number) => {
        if (limit === undefined) return g * sigmoid(g) * u
        const low = Math.min(g, limit)
        return low * sigmoid(1.702 * low) * (Math.max(-limit, Math.min(limit, u)) + 1)
      }
      const h = elementwise(
        rowwise(x!, (row) => rms(row, 1e-5)),
        scale!,
        (a, b) => a * b,
      )
      const logits = biased(product(h, router!), 0)
      const made = Array.from({ length: experts }, (_, e) => {
        const gated = elementwise(
          biased(product(h, expert(gate!, e)), 1, e),
          biased(product(h, expert(up!, e)), 2, e),
          open,
        )
        return biased(product(gated, expert(down!, e)), 3, e)
      })
      return generate([6, 7], ([row, column]) => {
        const own = Array.from({ length: experts }, (_, e) => at(logits, [row!, e]))
        const chosen = [...own.keys()].sort((a, b) => own[b]! - own[a]!).slice(0, used)
        const over = normalised ? chosen : [...own.keys()]
        const sum = over.reduce((total, e) => total + Math.exp(own[e]!), 0)
        return chosen.reduce(
          (total, e) => total + (Math.exp(own[e]!) / sum) * at(made[e]!, [row!, column!]),
          at(x!, [row!, column!]),
        )
      })
    },
  }
}
const mixtures = [mixtureCase(true), mixtureCase(false), mixtureCase(true, 0.7)]

const cases: Case[] = [
  ...mixtures,
  ...(
    [
      ['add', (x: number, y: number) => x + y],
      ['sub', (x: number, y: number) => x - y],
      ['mul', (x: number, y: number) => x * y],
      ['div', (x: number, y: number) => x / y],
    ] as const
  ).flatMap(([op, f]): Case[] =>
    [[3, 5, 7], [7], [5, 7], [5, 1], [1, 5, 7]].map((shape) => ({
      name: `${op} with b of shape [${shape}]`,
      shapes: [[3, 5, 7], shape],
      offset: op === 'div' ? 4 : 0,
      build: (ops, [a, b]) => ops[op](a!, b!),
      plain: ([a, b]) => elementwise(a!, b!, f),
    })),
  ),
  unary(
    'scale',
    (ops, x) => ops.scale(x, -1.7),
    (x) => -1.7 * x,
  ),
  unary(
    'affine',
    (ops, x) => ops.affine(x, 0.3, 2),
    (x) => 0.3 * x + 2,
  ),
  unary(
    'sqr',
    (ops, x) => ops.sqr(x),
    (x) => x * x,
  ),
  unary('exp', (ops, x) => ops.exp(x), Math.exp),
  unary('sigmoid', (ops, x) => ops.sigmoid(x), sigmoid),
  unary(
    'softplus',
    (ops, x) => ops.softplus(x),
    (x) => Math.log1p(Math.exp(x)),
  ),
  unary(
    'clamp',
    (ops, x) => ops.clamp(x, -0.5, 0.8),
    (x) => Math.max(-0.5, Math.min(0.8, x)),
  ),
  unary('sqrt', (ops, x) => ops.sqrt(x), Math.sqrt, 6),
  unary('log', (ops, x) => ops.log(x), Math.log, 6),
  unary('tanh', (ops, x) => ops.tanh(x), Math.tanh),
  unary(
    'silu',
    (ops, x) => ops.silu(x),
    (x) => x * sigmoid(x),
  ),
  unary('gelu', (ops, x) => ops.gelu(x), gelu),
  unary(
    'gelu of large values',
    (ops, x) => ops.gelu(ops.scale(x, 9)),
    (x) => gelu(9 * x),
  ),
  unary(
    'contiguous',
    (ops, x) => ops.contiguous(x),
    (x) => x,
  ),
  unary(
    'cast',
    (ops, x) => ops.cast(x, 'F32'),
    (x) => x,
  ),
  {
    name: 'silu times up',
    shapes: [
      [3, 37],
      [3, 37],
    ],
    build: (ops, [gate, up]) => ops.siluMul(gate!, up!),
    plain: ([gate, up]) => elementwise(gate!, up!, (x, y) => x * sigmoid(x) * y),
  },
  {
    name: 'sum',
    shapes: [[3, 5, 7]],
    build: (ops, [x]) => ops.sum(x!),
    plain: ([x]) => array([1], () => x!.data.reduce((a, b) => a + b)),
  },
  {
    name: 'sumRows',
    shapes: [[3, 5, 7]],
    build: (ops, [x]) => ops.sumRows(x!),
    plain: ([x]) => rowwise(x!, (row) => [row.reduce((a, b) => a + b)]),
  },
  {
    name: 'repeat',
    shapes: [
      [1, 5],
      [3, 10],
    ],
    build: (ops, [x, like]) => ops.repeat(x!, like!),
    plain: ([x]) => generate([3, 10], (place) => at(x!, [0, place[1]! % 5])),
  },
  ...[0, 1, 2].map((dimension): Case => {
    const other = [2, 3, 5].map((length, i) => (i === dimension ? length + 1 : length))
    return {
      name: `concat along dimension ${dimension}`,
      shapes: [[2, 3, 5], other],
      build: (ops, [a, b]) => ops.concat(a!, b!, dimension),
      plain: ([a, b]) =>
        generate(
          [2, 3, 5].map((length, i) => (i === dimension ? 2 * length + 1 : length)),
          (place) => {
            const length = a!.shape[dimension]!
            const inside = place[dimension]! < length
            const moved = place.map((c, i) => (i === dimension ? c - length : c))
            return inside ? at(a!, place) : at(b!, moved)
          },
        ),
    }
  }),
  {
    name: 'rmsNorm',
    shapes: [[5, 37]],
    build: (ops, [x]) => ops.rmsNorm(x!, 1e-5),
    plain: ([x]) => rowwise(x!, (row) => rms(row, 1e-5)),
  },
  {
    name: 'layerNorm of rows far from zero',
    shapes: [[5, 37]],
    offset: 3,
    build: (ops, [x]) => ops.layerNorm(x!, 1e-5),
    plain: ([x]) => rowwise(x!, (row) => rms(centred(row), 1e-5)),
  },
  {
    name: 'layerNorm of small values',
    shapes: [[3, 16]],
    build: (ops, [x]) => ops.layerNorm(ops.scale(x!, 1e-3), 1e-5),
    plain: ([x]) => rowwise(x!, (row) => rms(centred(row.map((v) => v * 1e-3)), 1e-5)),
  },
  ...(
    [
      ['two matrices', [5, 7], [3, 7]],
      ['one row', [1, 7], [3, 7]],
      ['many with one weight', [2, 4, 5, 7], [3, 7]],
      ['pair by pair', [2, 4, 5, 7], [2, 4, 3, 7]],
      ['grouped heads', [2, 4, 5, 7], [2, 2, 3, 7]],
      ['one head for all', [2, 4, 5, 7], [2, 1, 3, 7]],
    ] as const
  ).map(
    ([what, a, b]): Case => ({
      name: `matmul of ${what}`,
      shapes: [[...a], [...b]],
      build: (ops, [x, y]) => ops.matmul(x!, y!),
      plain: ([x, y]) => product(x!, y!),
    }),
  ),
  {
    name: 'matmul of permuted operands',
    shapes: [
      [2, 5, 4, 8],
      [2, 3, 4, 8],
    ],
    build: (ops, [q, k]) => ops.matmul(ops.permute(q!, [0, 2, 1, 3]), ops.permute(k!, [0, 2, 1, 3])),
    plain: ([q, k]) => {
      const heads = (x: NumberArray) =>
        generate([2, 4, x.shape[1]!, 8], ([b, h, t, d]) => at(x, [b!, t!, h!, d!]))
      return product(heads(q!), heads(k!))
    },
  },
  {
    name: 'softmax with a scale',
    shapes: [[3, 5, 7]],
    build: (ops, [x]) => ops.softmax(x!, undefined, 0.6),
    plain: ([x]) => rowwise(x!, (row) => softmaxOf(row, 0.6, () => 0)),
  },
  {
    name: 'softmax with a scale and a causal mask',
    shapes: [[2, 3, 7, 7]],
    constants: [causal],
    build: (ops, [x], _, [mask]) => ops.softmax(x!, mask, 0.6),
    plain: ([x]) => {
      let row = 0
      return rowwise(x!, (values) => {
        const token = row++ % 7
        return softmaxOf(values, 0.6, (column) => at(causal, [token, column]))
      })
    },
  },
  {
    name: 'rope over part of the head',
    shapes: [[5, 2, 8]],
    integers: positions,
    build: (ops, [x], places) => ops.rope(x!, places, rope),
    plain: ([x]) => turned(x!, () => 1),
  },
  {
    name: 'rope with divisors',
    shapes: [[5, 2, 6]],
    integers: positions,
    constants: [factors],
    build: (ops, [x], places, [divisors]) => ops.rope(x!, places, rope, divisors),
    plain: ([x]) => turned(x!, (pair) => factors.data[pair]!),
  },
  {
    name: 'rows with repeated ids',
    shapes: [[6, 7]],
    integers: ids,
    build: (ops, [table], rows) => ops.rows(table!, rows),
    plain: ([table]) => generate([5, 7], ([row, column]) => at(table!, [ids[row!]!, column!])),
  },
  {
    name: 'reshape',
    shapes: [[6, 7]],
    build: (ops, [x]) => ops.reshape(x!, [3, 2, 7]),
    plain: ([x]) => ({ shape: [3, 2, 7], data: x!.data }),
  },
  {
    name: 'a slice of the middle',
    shapes: [[4, 9]],
    build: (ops, [x]) => ops.contiguous(ops.slice(x!, 1, 2, 3)),
    plain: ([x]) => generate([4, 3], ([row, column]) => at(x!, [row!, column! + 2])),
  },
  {
    name: 'slices that tile a tensor, out of order',
    shapes: [[4, 9]],
    build: (ops, [x]) => {
      const part = (start: number) => ops.contiguous(ops.slice(x!, 1, start, 3))
      return ops.add(ops.mul(part(6), part(0)), part(3))
    },
    plain: ([x]) =>
      generate([4, 3], ([row, column]) => {
        const part = (start: number) => at(x!, [row!, start + column!])
        return part(6) * part(0) + part(3)
      }),
  },
  {
    name: 'permute',
    shapes: [[2, 3, 4, 5]],
    build: (ops, [x]) => ops.contiguous(ops.permute(x!, [2, 0, 3, 1])),
    plain: ([x]) => generate([4, 2, 5, 3], ([c, a, d, b]) => at(x!, [a!, b!, c!, d!])),
  },
  ...(
    [
      ['a matrix', [6, 8]],
      ['many matrices', [2, 3, 6, 8]],
      ['a matrix of odd width', [6, 7]],
    ] as const
  ).map(
    ([what, shape]): Case => ({
      name: `transposed: ${what}`,
      shapes: [[...shape]],
      build: (ops, [x]) => ops.scale(ops.transposed(x!), 3),
      plain: ([x]) =>
        generate([...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!], (place) => {
          const [column, row] = place.slice(-2) as [number, number]
          return 3 * at(x!, [...place.slice(0, -2), row, column])
        }),
    }),
  ),
  {
    name: 'matmul of matrices wide enough for transposed copies',
    shapes: [
      [2, 130],
      [132, 130],
    ],
    build: (ops, [a, b]) => ops.matmul(a!, b!),
    plain: ([a, b]) => product(a!, b!),
  },
  {
    name: 'a value that is used three times',
    shapes: [[4, 9]],
    build: (ops, [x]) => {
      const doubled = ops.scale(x!, 2)
      return ops.add(ops.mul(doubled, x!), doubled)
    },
    plain: ([x]) => map(x!, (v) => 2 * v * v + 2 * v),
  },
]

function unary(
  name: string,
  build: (ops: Ops, x: Tensor) => Tensor,
  plain: (x: number) => number,
  offset = 0,
): Case {
  return {
    name,
    shapes: [[3, 37]],
    offset,
    build: (ops, [x]) => build(ops, x!),
    plain: ([x]) => map(x!, plain),
  }
}

describe.each([
  { how: 'handed on as it is', viewed: false },
  { how: 'handed on through views, which changes what memory ggml reuses', viewed: true },
])('the gradient equals finite differences of plain arithmetic, $how', ({ viewed }) => {
  test.each(cases.map((entry) => [entry.name, entry] as const))('%s', (_, entry) => {
    const inputs = entry.shapes.map((shape, i) => randomArray(shape, 7 + i, entry.offset))
    const outcome = run(entry, inputs, viewed)
    expectClose(outcome.value, entry.plain(inputs))
    for (const [index, gradient] of outcome.gradients.entries()) {
      if (entry.name === 'repeat' && index === 1) expect(gradient).toBeUndefined()
      else expectClose(gradient!, differences(entry, inputs, index, outcome.dy))
    }
  })
})

/** Activations that our kernels compute in the pass of a product, and what hands their gradients back. */
const mix = (a: NumberArray, b: NumberArray, f: (x: number, y: number) => number) => elementwise(a, b, f)
const gated = (ops: Ops, gate: Tensor, up: Tensor) => ops.siluMul(gate, up)
const plainGated = (gate: NumberArray, up: NumberArray) => mix(gate, up, (x, y) => x * sigmoid(x) * y)
const fused: Case[] = [
  ...mixtures,
  {
    name: 'gelu between products',
    shapes: [
      [5, 7],
      [9, 7],
      [6, 9],
    ],
    build: (ops, [x, w, v]) => ops.matmul(ops.gelu(ops.matmul(x!, w!)), v!),
    plain: ([x, w, v]) => product(map(product(x!, w!), gelu), v!),
  },
  {
    name: 'gelu of a product with a bias, used twice',
    shapes: [[5, 7], [9, 7], [9], [6, 9]],
    build: (ops, [x, w, bias, v]) => {
      const y = ops.gelu(ops.add(ops.matmul(x!, w!), bias!))
      return ops.matmul(ops.add(ops.scale(y, 0.5), y), v!)
    },
    plain: ([x, w, bias, v]) => {
      const y = map(
        mix(product(x!, w!), bias!, (a, b) => a + b),
        gelu,
      )
      return product(
        map(y, (value) => 1.5 * value),
        v!,
      )
    },
  },
  {
    name: 'a gated unit between products',
    shapes: [
      [5, 7],
      [9, 7],
      [9, 7],
      [6, 9],
    ],
    build: (ops, [x, g, u, v]) => ops.matmul(gated(ops, ops.matmul(x!, g!), ops.matmul(x!, u!)), v!),
    plain: ([x, g, u, v]) => product(plainGated(product(x!, g!), product(x!, u!)), v!),
  },
  {
    name: 'two gated units that one gradient is handed back to',
    shapes: [
      [5, 7],
      [9, 7],
      [9, 7],
      [6, 9],
    ],
    build: (ops, [x, g, u, v]) => {
      const [a, b] = [ops.matmul(x!, g!), ops.matmul(x!, u!)]
      const [c, d] = [ops.matmul(x!, g!), ops.matmul(x!, u!)]
      return ops.matmul(ops.add(gated(ops, a, b), gated(ops, d, c)), v!)
    },
    plain: ([x, g, u, v]) => {
      const [a, b] = [product(x!, g!), product(x!, u!)]
      return product(
        mix(plainGated(a, b), plainGated(b, a), (p, q) => p + q),
        v!,
      )
    },
  },
]

const kernels = loadKernels()

test.skipIf(kernels === undefined).each(fused.map((entry) => [entry.name, entry] as const))(
  'by our kernels the gradient equals finite differences, %s',
  (_, entry) => {
    using own = new KernelContext(kernels!)
    const inputs = entry.shapes.map((shape, i) => randomArray(shape, 7 + i))
    const outcome = run(entry, inputs, false, own)
    expectClose(outcome.value, entry.plain(inputs))
    for (const [index, gradient] of outcome.gradients.entries())
      expectClose(gradient!, differences(entry, inputs, index, outcome.dy))
  },
)

function run(entry: Case, inputs: NumberArray[], viewed: boolean, kernels?: KernelContext) {
  using graph = new Graph(device, 512, 64, kernels ? { kernels } : {})
  const tensors = entry.shapes.map((shape, i) => graph.input('F32', shape, `x${i}`))
  const integers = graph.input('I32', [Math.max(1, entry.integers?.length ?? 0)], 'integers')
  const constants = (entry.constants ?? []).map((c, i) => graph.input('F32', c.shape, `c${i}`))
  // Behind a node of its own, every operand's memory may be reused: ggml must not do that too early.
  const operands = tensors.map((tensor) => graph.ops.scale(tensor, 1))
  const result = entry.build(graph.ops, operands, integers, constants)
  const y = graph.output(graph.ops.scale(viewed ? graph.ops.reshape(result, [result.size]) : result, 1))
  const dy = randomArray(y.shape, 99)
  const upstream = graph.input('F32', y.shape, 'dy')
  const found = new Map<Tensor, Tensor>()
  backward(graph.ops, y, upstream, new Set(tensors), (wanted, gradient) => {
    const before = found.get(wanted)
    found.set(wanted, graph.output(before === undefined ? gradient : graph.ops.add(before, gradient)))
  })
  graph.allocate()
  for (const [i, tensor] of tensors.entries()) tensor.write(Float32Array.from(inputs[i]!.data))
  for (const [i, tensor] of constants.entries()) tensor.write(Float32Array.from(entry.constants![i]!.data))
  integers.write(Int32Array.from(entry.integers ?? [0]))
  upstream.write(Float32Array.from(dy.data))
  graph.compute()
  const read = (tensor: Tensor | undefined): NumberArray | undefined =>
    tensor && { shape: tensor.shape, data: Float64Array.from(tensor.toFloats()) }
  return {
    dy,
    value: { ...read(y)!, shape: result.shape },
    gradients: tensors.map((tensor) => read(found.get(tensor))),
  }
}

/** Central differences of sum(dy * f(x)) in float64; NaN where a large input is not probed. */
function differences(entry: Case, inputs: NumberArray[], index: number, dy: NumberArray): NumberArray {
  const step = 1e-5
  const loss = (moved: NumberArray) => {
    const y = entry.plain(inputs.map((input, i) => (i === index ? moved : input)))
    return y.data.reduce((sum, value, i) => sum + value * dy.data[i]!, 0)
  }
  const x = inputs[index]!
  const stride = x.data.length > 1000 ? Math.ceil(x.data.length / 10) : 1
  return map(x, (value, i) => {
    if (i % stride !== 0) return Number.NaN
    const moved = (by: number) => map(x, (v, j) => (j === i ? value + by : v))
    return (loss(moved(step)) - loss(moved(-step))) / (2 * step)
  })
}

function expectClose(actual: NumberArray, expected: NumberArray): void {
  expect(actual.shape).toEqual(expected.shape)
  const probed = [...expected.data.keys()].filter((i) => !Number.isNaN(expected.data[i]))
  const scale = Math.max(1e-6, ...probed.map((i) => Math.abs(expected.data[i]!)))
  const worst = Math.max(...probed.map((i) => Math.abs(actual.data[i]! - expected.data[i]!)))
  expect(worst / scale).toBeLessThan(3e-5)
}

test('the slope of silu and gelu at exactly zero is one half', () => {
  using graph = new Graph(device, 64)
  const x = graph.input('F32', [4], 'x')
  const dy = graph.input('F32', [4], 'dy')
  const slopes: Tensor[] = []
  for (const y of [graph.ops.silu(x), graph.ops.gelu(x)])
    backward(graph.ops, y, dy, new Set([x]), (_, gradient) => slopes.push(graph.output(gradient)))
  graph.allocate()
  x.write(Float32Array.of(0, -0, 1e-30, -1e-25))
  dy.write(new Float32Array(4).fill(1))
  graph.compute()
  for (const slope of slopes) expect([...slope.toFloats()]).toEqual([0.5, 0.5, 0.5, 0.5])
})

test('an op that only serving uses refuses to be differentiated', () => {
  using graph = new Graph(device, 16)
  const x = graph.input('F32', [4, 8], 'x')
  const y = graph.ops.copy(x, graph.input('F32', [4, 8], 'into'))
  expect(gradients.copy).toBe('none')
  expect(() => backward(graph.ops, y, x, new Set([x]), () => undefined)).toThrow(/copy can be differentiated/)
})
