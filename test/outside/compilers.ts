/**
 * Where clang++'s kernels are slower than g++'s, and the other way: processor time of each op by both libraries, in one
 * process and on one thread, short rounds in turns, the best of each. By hand, some minutes:
 * npx tsx test/outside/compilers.ts [set] [part of a name]
 */
import { Random } from '../../src/base/random.ts'
import { type InstructionSet, unitsFor } from '../../src/runtime/instruction-sets.ts'
import type { KernelOp } from '../../src/runtime/kernel-ops.ts'
import {
  batchTableWordsMax,
  type CacheFormat,
  cacheFormats,
  cacheHeadBytes,
  KernelContext,
  Kernels,
  linearOps,
  writeBatchTable,
} from '../../src/runtime/kernels.ts'
import { buildKernels } from '../../src/runtime/kernels-build.ts'
import { cases } from '../native/products.ts'
import { type FakeTensor, fakeTensor, normals } from '../native/tensors.ts'
import { randomWeight } from '../native/weights.ts'

// N rows, K inputs, M outputs; H heads, G kv heads, D head width.

interface Task {
  name: string
  op: KernelOp
  params: Record<string, number>
  shape: readonly number[]
  sources(kernels: Kernels): FakeTensor[]
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
const tensor = (shape: readonly number[], seed: number) => fakeTensor(normals(sizeOf(shape), seed), shape)

function products(): Task[] {
  const [inputs, outputs] = [1024, 2048]
  const plain = { normed: 0, biased: 0, residual: 0, gated: 0, adapted: 0, epsilon: 1e-5 }
  return cases
    .filter(([format], i) => cases.findIndex(([other]) => other === format) === i)
    .flatMap(([format, dtype]) => {
      const weight = randomWeight(dtype, outputs, inputs, 1)
      return [1, 4, 32, 128].map((rows): Task => {
        const x = tensor([rows, inputs], 2)
        const sources = (kernels: Kernels) => {
          const packed = new Uint8Array(kernels.packedBytes(format, outputs, inputs))
          kernels.packRows(format, packed, inputs, 0, weight.source)
          return [x, fakeTensor(packed, [packed.length])]
        }
        const name = `${format}, ${rows} rows`
        return { name, op: linearOps[format], params: plain, shape: [rows, outputs], sources }
      })
    })
}

function attentions(): Task[] {
  const [heads, kvHeads, width, blockTokens, context] = [14, 2, 64, 32, 512]
  return (Object.keys(cacheFormats) as CacheFormat[]).flatMap((format) =>
    [
      { name: 'decodes', sequences: 8, count: 1, start: context - 1 },
      { name: 'prompt', sequences: 1, count: 128, start: 0 },
    ].map(({ name, sequences, count, start }): Task => {
      const blocks = context / blockTokens
      const words = new Int32Array(batchTableWordsMax(sequences, sequences * blocks))
      const table = Array.from({ length: sequences }, (_, i) => ({
        count,
        start,
        blocks: Array.from({ length: blocks }, (_, b) => i * blocks + b),
      }))
      const used = writeBatchTable(words, table, blockTokens)
      const bytes = 2 * sequences * blocks * kvHeads * cacheHeadBytes(format, width)! * blockTokens
      const cache = () => fakeTensor(new Uint16Array(bytes / 2).fill(0x2c2c), [bytes / 2])
      const rows = sequences * count
      const sources = [tensor([rows, heads, width], 3), cache(), fakeTensor(words, [used])]
      const params = { kvHeads, window: 0, scale: 0.125, cacheFormat: cacheFormats[format], sinks: 0 }
      const shape = [rows, heads, width]
      return { name: `${name} ${format}`, op: 'paged_attention', params, shape, sources: () => sources }
    }),
  )
}

function training(): Task[] {
  const [rows, width, wide, heads] = [512, 384, 1536, 6]
  const of = (
    name: string,
    op: KernelOp,
    params: Record<string, number>,
    shape: number[],
    from: number[][],
  ) => {
    const sources = from.map((each, i) => tensor(each, 5 + i))
    return { name, op, params, shape, sources: () => sources } satisfies Task
  }
  const matmul = (aTransposed: number, bTransposed: number) => ({ aTransposed, bTransposed, behind: 0 })
  const qkv = [0, 1, 2].map((i) => tensor([rows, heads, width / heads], 20 + i))
  const firsts = fakeTensor(
    Int32Array.from({ length: rows }, (_, row) => row - (row % 256)),
    [rows],
  )
  const causal = [0, 1].flatMap((pairs): Task[] => {
    const params = { sequences: 2, scale: 0.125, pairs }
    const dy = tensor([rows, width], 30)
    return [
      {
        name: `causal ${pairs}`,
        op: 'causal_attention',
        params,
        shape: [rows, width],
        sources: () => [...qkv, firsts],
      },
      {
        name: `causal back ${pairs}`,
        op: 'causal_attention_back',
        params,
        shape: [rows, 3 * width],
        sources: () => [...qkv, firsts, dy],
      },
    ]
  })
  const random = new Random(9)
  const cells = Int32Array.from({ length: 64 }, (_, row) => row * 5003 + random.integer(5003))
  const logits = [tensor([64, 5003], 40), fakeTensor(cells, [64]), tensor([64, 1], 41)]
  return [
    ...(['matmul_f32', 'matmul_bf16'] as const).flatMap((op) => [
      of(
        `${op} forward`,
        op,
        matmul(0, 0),
        [rows, wide],
        [
          [rows, width],
          [wide, width],
        ],
      ),
      of(
        `${op} of weights`,
        op,
        matmul(1, 1),
        [wide, width],
        [
          [rows, wide],
          [rows, width],
        ],
      ),
    ]),
    ...causal,
    of('gelu', 'gelu', {}, [rows, wide], [[rows, wide]]),
    of(
      'gelu back',
      'gelu_back',
      {},
      [rows, wide],
      [
        [rows, wide],
        [rows, wide],
      ],
    ),
    of('norm', 'norm', { centred: 1, epsilon: 1e-5, weighted: 0 }, [rows, width], [[rows, width]]),
    of(
      'norm back',
      'norm_back',
      { centred: 1, epsilon: 1e-5, weighted: 0, added: 0 },
      [rows, width],
      [
        [rows, width],
        [rows, width],
      ],
    ),
    { name: 'shares back', op: 'shares_back', params: {}, shape: [64, 5003], sources: () => logits },
  ]
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** Processor time of one run by each of two libraries, the best of many rounds of 4 ms or more. */
function compare(task: Task, libraries: readonly Kernels[]): number[] {
  const contexts = libraries.map((kernels) => new KernelContext(kernels))
  const runs = libraries.map((kernels, i) => {
    const call = contexts[i]!.call(task.op, task.params as never)
    const dst = fakeTensor(new Float32Array(sizeOf(task.shape)), task.shape, task.sources(kernels))
    return () => kernels.run(call, dst.struct, 1)
  })
  const timed = (run: () => void, times: number) => {
    const before = cpuMs()
    for (let i = 0; i < times; i++) run()
    return (cpuMs() - before) / times
  }
  const times = runs.map((run) => Math.max(1, Math.ceil(4 / Math.max(0.001, timed(run, 3)))))
  const best = runs.map(() => Number.POSITIVE_INFINITY)
  for (let round = 0; round < 24; round++)
    runs.forEach((run, i) => {
      best[i] = Math.min(best[i]!, timed(run, times[i]!))
    })
  for (const context of contexts) context.dispose()
  return best
}

function libraryOf(compiler: string): string {
  process.env.CXX = compiler
  const build = buildKernels(undefined, unitsFor(undefined))
  if (!build.ok) throw new Error(build.reason)
  console.log(build.compiler)
  return build.path
}

const paths = ['g++', 'clang++'].map(libraryOf)
const [wanted, part = ''] = process.argv.slice(2)
const sets = (['avx512', 'avx2', 'portable'] as const).filter((set) => wanted === undefined || wanted === set)
for (const set of sets satisfies InstructionSet[]) {
  const libraries = paths.map((path) => new Kernels(path, set))
  for (const task of [...products(), ...attentions(), ...training()].filter(({ name }) =>
    name.includes(part),
  )) {
    const [ours, theirs] = compare(task, libraries)
    console.log(
      `${set.padEnd(10)}${task.name.padEnd(26)}${ours!.toFixed(3).padStart(9)} ms ${theirs!.toFixed(3).padStart(9)} ms  ${(theirs! / ours!).toFixed(2)}`,
    )
  }
}
