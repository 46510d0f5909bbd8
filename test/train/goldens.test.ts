/** Training traces that transformers and PyTorch made; `gen.py` beside them says exactly what was computed. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Device } from '../../src/runtime/device.ts'
import type { Batch, BatchSource } from '../../src/train/batch.ts'
import type { GraphShape } from '../../src/train/loss-graph.ts'
import { loadModel, type Parameters } from '../../src/train/parameters.ts'
import { Trainer } from '../../src/train/trainer.ts'
import { sharedData } from '../shared.ts'
import { logitsOf } from './logits.ts'

const device = new Device({ device: 'cpu', threads: 1 })
const folder = sharedData('training-goldens')
const [vocabulary, tokens, sequences, steps] = [64, 24, 4, 12]

interface Trace {
  losses: number[]
  grad_norms: number[]
  lrs: number[]
  logits_sum_step0?: number
  logits_l2_step0?: number
  grad_l2_step0: Record<string, number>
  param_sum_final: Record<string, number>
}
interface Golden {
  opt: { mask?: boolean; sched?: string; accum?: number; packed?: number[] }
  float32: Trace
  float64: Trace
}

/** Losses to 2e-5, but for GPT-2, whose first layer norm meets rows of nearly equal numbers. */
const cases = [
  { name: 'gpt2', lossTolerance: 1e-4 },
  { name: 'llama_gqa', lossTolerance: 2e-5 },
  { name: 'llama_tied_sched_mask', lossTolerance: 2e-5 },
  { name: 'llama_gqa_accum2', lossTolerance: 2e-5 },
  { name: 'qwen2', lossTolerance: 2e-5 },
  { name: 'llama_packed', lossTolerance: 2e-5 },
]

function lcg(seed: number): () => number {
  let x = seed >>> 0
  return () => {
    x = (Math.imul(1664525, x) + 1013904223) >>> 0
    return x / 4294967296
  }
}

/** gen.py's data(): its labels, moved by one so that a row's target is the token that follows. */
function batchOf(seed: number, opt: Golden['opt']): Batch {
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

function sourceOf(opt: Golden['opt']): BatchSource {
  return { at: (index) => batchOf((opt.accum ?? 1) > 1 ? 1000 + index : 1000, opt) }
}

function trainerOf(parameters: Parameters, opt: Golden['opt'], shape: Partial<GraphShape>): Trainer {
  return new Trainer(parameters, device, sourceOf(opt), {
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

function sumOf(values: Iterable<number>): number {
  let sum = 0
  for (const value of values) sum += value
  return sum
}

describe.skipIf(folder === undefined).each(cases)('$name', ({ name, lossTolerance }) => {
  const golden = JSON.parse(readFileSync(join(folder ?? '', `${name}.json`), 'utf8')) as Golden
  const { opt, float32: trace } = golden
  const open = () => loadModel(join(folder!, name), device)

  test('losses, gradient norms, rates and final weights are those of PyTorch', async () => {
    using parameters = open()
    using trainer = trainerOf(parameters, opt, {})
    for (let step = 0; step < steps; step++) {
      const report = await trainer.step()
      expect(Math.abs(report.loss - trace.losses[step]!), `loss of step ${step}`).toBeLessThan(lossTolerance)
      const norm = trace.grad_norms[step]!
      expect(Math.abs(report.gradientNorm / norm - 1), `norm of step ${step}`).toBeLessThan(1e-4)
      expect(report.learningRate).toBeCloseTo(trace.lrs[step]!, 12)
    }
    for (const { spec, weight } of parameters.all) {
      const expected = golden.float64.param_sum_final[spec.name]!
      // PyTorch's own float32 run misses its float64 run by up to this much.
      const drift = Math.abs(trace.param_sum_final[spec.name]! - expected)
      // Softmax ignores a shift of all keys, so the key third of this bias has no gradient but rounding noise,
      // which AdamW turns into steps of its own size: one sample of that walk does not bound another.
      const noisy = spec.name.endsWith('attn.c_attn.bias')
      const allowed = (noisy ? 25 : 5) * drift + 1e-6 * weight.size + 1e-4
      expect(Math.abs(sumOf(weight.toFloats()) - expected), spec.name).toBeLessThan(allowed)
    }
  })

  test('every named gradient of the first step has the length that PyTorch found', async () => {
    using parameters = open()
    using trainer = trainerOf(parameters, opt, {})
    const norms = await trainer.gradientNorms()
    expect([...norms.keys()].sort()).toEqual(Object.keys(trace.grad_l2_step0).sort())
    const largest = Math.max(...norms.values())
    for (const [parameter, expected] of Object.entries(trace.grad_l2_step0)) {
      // A key's bias moves all scores of a row alike, so its true gradient is zero: both sides hold dust.
      const dust = 1e-7 * largest
      expect(Math.abs(norms.get(parameter)! - expected), parameter).toBeLessThan(1e-4 * expected + dust)
    }
  })

  test('logits of the first step add up to those of PyTorch', () => {
    if (trace.logits_sum_step0 === undefined) return
    using parameters = open()
    const logits = logitsOf(parameters, device, sourceOf(opt).at(0))
    expect(sumOf(logits)).toBeCloseTo(trace.logits_sum_step0, 3)
    expect(Math.sqrt(sumOf(logits.map((x) => x * x))) / trace.logits_l2_step0!).toBeCloseTo(1, 5)
  })

  test.each([
    { how: 'the head only for supervised rows', shape: { supervisedMax: sequences * tokens - 1 } },
    { how: "with ggml's products instead of our own", shape: { ownKernels: false } },
  ])('computing $how trains the same', async ({ shape }) => {
    using parameters = open()
    using trainer = trainerOf(parameters, opt, shape)
    for (let step = 0; step < steps; step++) {
      const report = await trainer.step()
      expect(Math.abs(report.loss - trace.losses[step]!), `loss of step ${step}`).toBeLessThan(lossTolerance)
    }
  })
})
