/** What gen.py beside the training goldens computes on, so that several suites can hold themselves to it. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import type { ParameterSpec } from '../../src/models/architecture.ts'
import { defineModel } from '../../src/models/registry.ts'
import { storedTensors } from '../../src/models/stored-tensors.ts'
import { Device } from '../../src/runtime/device.ts'
import type { Batch, BatchSource } from '../../src/train/batch.ts'
import type { GraphShape } from '../../src/train/objective.ts'
import type { Parameters } from '../../src/train/parameters.ts'
import { Trainer } from '../../src/train/trainer.ts'

export const device = new Device({ device: 'cpu', threads: 1 })
const vocabulary = 64
export const [tokens, sequences, steps] = [24, 4, 12]

export interface Trace {
  losses: number[]
  grad_norms: number[]
  lrs: number[]
  logits_sum_step0?: number
  logits_l2_step0?: number
  grad_l2_step0: Record<string, number>
  param_sum_final: Record<string, number>
}
export interface Golden {
  opt: { mask?: boolean; balance?: number; sched?: string; accum?: number; packed?: number[] }
  /** The config.json of models whose weights come from a counter: {@link countedModel}. */
  config?: Record<string, unknown>
  float32: Trace
  float64: Trace
}

/** Of no path nothing: vitest runs the bodies of suites that it skips, too. */
export function readGolden(path: string | undefined): Golden {
  if (path === undefined) return { opt: {}, float32: {}, float64: {} } as unknown as Golden
  return JSON.parse(readFileSync(path, 'utf8')) as Golden
}

export function lcg(seed: number): () => number {
  let x = seed >>> 0
  return () => {
    x = (Math.imul(1664525, x) + 1013904223) >>> 0
    return x / 4294967296
  }
}

/** Traces of architectures that the shared data has none of; test/outside/goldens.py made them. */
export const ownGoldens = join(dirname(fileURLToPath(import.meta.url)), 'goldens')

/** Writes the model that goldens.py trained: every number from a counter that begins with the parameter's name. */
export function countedModel(folder: string, config: Record<string, unknown>): string {
  const { architecture, config: parsed } = defineModel(config)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  const specs = architecture.parameters(parsed)
  const values = new Map(specs.map((spec) => [spec, counted(spec)]))
  const tensors = storedTensors(specs).map(({ name, shape, pieces }) => {
    const parts = pieces.map(({ spec, row, rows }) => {
      const width = values.get(spec)!.length / (spec.shape[0] ?? 1)
      return Buffer.from(values.get(spec)!.buffer, 4 * row * width, 4 * rows * width)
    })
    return { name, dtype: 'F32' as const, shape, data: Buffer.concat(parts) }
  })
  writeSafetensors(join(folder, 'model.safetensors'), architecture.written?.(tensors, parsed) ?? tensors)
  return folder
}

function counted({ name, shape, init }: ParameterSpec): Float32Array<ArrayBuffer> {
  const next = lcg(seedOf(name))
  const norm = name.includes('norm') && 'value' in init ? init.value : undefined
  const size = shape.reduce((a, b) => a * b, 1)
  return Float32Array.from({ length: size }, () => {
    const number = next()
    return norm === undefined ? (number - 0.5) * 0.16 : norm + (number - 0.5) * 0.2
  })
}

/** FNV-1a (Fowler, Noll and Vo). */
function seedOf(name: string): number {
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(name)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0
  return hash
}

/** gen.py's data(): its labels, moved by one so that a row's target is the token that follows. */
export function batchOf(seed: number, opt: Golden['opt']): Batch {
  const next = lcg(seed)
  const size = sequences * tokens
  const ids = Int32Array.from({ length: size }, () => Math.floor(next() * vocabulary))
  const starts = (opt.packed ?? [tokens]).map((_, i, all) => all.slice(0, i).reduce((a, b) => a + b, 0))
  const documentOf = (column: number) => starts.filter((start) => start <= column).length - 1
  const labelled = (sequence: number, column: number) => {
    if (opt.packed && starts.includes(column)) return false
    if (!opt.mask) return true
    return column >= 5 + 2 * sequence && !(sequence === 1 && column >= tokens - 6)
  }
  const column = (i: number) => i % tokens
  const last = (i: number) => column(i) === tokens - 1
  return {
    sequences,
    tokens,
    ids,
    positions: ids.map((_, i) => column(i) - starts[documentOf(column(i))]!),
    targets: ids.map((_, i) => (last(i) ? 0 : ids[i + 1]!)),
    weights: Float32Array.from(ids, (_, i) =>
      !last(i) && labelled(Math.floor(i / tokens), column(i) + 1) ? 1 : 0,
    ),
    ...(opt.packed && { documents: ids.map((_, i) => documentOf(column(i))) }),
  }
}

/** The traces are of the first seed. */
export const goldenSeed = 1000

export function sourceOf(opt: Golden['opt'], seed = goldenSeed): BatchSource {
  return { at: (index) => batchOf((opt.accum ?? 1) > 1 ? seed + index : seed, opt) }
}

export function trainerOf(
  parameters: Parameters,
  opt: Golden['opt'],
  shape: Partial<GraphShape>,
  seed = goldenSeed,
): Trainer {
  return new Trainer(parameters, device, sourceOf(opt, seed), {
    shape: { sequences, tokens, packed: opt.packed !== undefined, ...shape },
    accumulate: opt.accum ?? 1,
    optimizer: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1 },
    schedule: {
      kind: opt.sched === 'cos' ? 'cosine' : 'constant',
      learningRate: 1e-2,
      learningRateMin: 1e-3,
      warmupSteps: opt.sched === 'cos' ? 3 : 0,
      decaySteps: steps,
    },
  })
}

export function sumOf(values: Iterable<number>): number {
  let sum = 0
  for (const value of values) sum += value
  return sum
}
