/** Training traces that transformers and PyTorch made; `gen.py` beside them says exactly what was computed. */
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { loadKernels } from '../../src/runtime/kernels.ts'
import type { Precision } from '../../src/runtime/op-maker.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { sharedData } from '../shared.ts'
import {
  countedModel,
  device,
  goldenSeed,
  ownGoldens,
  readGolden,
  sequences,
  sourceOf,
  steps,
  sumOf,
  tokens,
  trainerOf,
} from './golden.ts'
import { logitsOf } from './logits.ts'
import { temporaryFolder } from './temporary-folder.ts'

const shared = sharedData('training-goldens')
const made = temporaryFolder('goldens', afterAll)

interface Case {
  name: string
  /** Largest difference of a loss: 2e-5, but for GPT-2, whose first layer norm meets rows of nearly equal numbers. */
  lossTolerance: number
  /** Median over nine seeds of the largest relative difference of a loss where products are bfloat16; PyTorch's own autocast is 0.9 % away on qwen3's first. */
  bf16Tolerance: number
  /** Not of the shared data. */
  own: boolean
}

const kernels = loadKernels()
const byNarrow = kernels !== undefined && !/^(avx512|amx)/.test(kernels.instructionSet)

/**
 * What rounding makes of a run that learns 96 tokens by heart is mostly luck: over forty seeds a family's worst is ten times its
 * median. The medians of nine seeds in turn came to at most the number that is given, on AVX-512 with pairs of bfloat16 and on
 * AVX2 alike, whose single seeds differ; what is held is one and a half times that.
 */
const bf16 = (medianMost: number) => 1.5 * medianMost

const cases = [
  { name: 'gpt2', lossTolerance: 1e-4, bf16Tolerance: bf16(1.6e-3), own: false },
  ...Object.entries({
    ...{ llama_gqa: 3.3e-3, qwen2: 4.2e-3, llama_tied_sched_mask: 5.3e-4, llama_gqa_accum2: 9.2e-4 },
    llama_packed: 4.1e-3,
  }).map(([name, most]): Case => ({ name, lossTolerance: 2e-5, bf16Tolerance: bf16(most), own: false })),
  ...Object.entries({
    ...{
      qwen3: 5.3e-3,
      mistral: 4.9e-3,
      phi3: 7e-3,
      granite: 1.5e-4,
      gemma3_text: 1.5e-2,
      olmo2: 2.6e-3,
      olmo3: 2.4e-3,
    },
    ...{
      smollm3: 2.7e-3,
      qwen3_moe: 8.3e-3,
      mixtral: 1.1e-2,
      olmoe: 3.7e-3,
      granitemoe: 5.8e-4,
      gpt_oss: 1.3e-2,
    },
  }).map(([name, most]): Case => ({ name, lossTolerance: 2e-5, bf16Tolerance: bf16(most), own: true })),
].filter(({ own }) => own || shared !== undefined)

describe.each(cases)('$name', ({ name, lossTolerance, bf16Tolerance, own }) => {
  const golden = readGolden(join(own ? ownGoldens : shared!, `${name}.json`))
  const { opt, float32: trace } = golden
  const open = () =>
    loadModel(own ? countedModel(join(made, name), golden.config!) : join(shared!, name), device)

  test('losses, gradient norms, rates and final weights are those of PyTorch', async () => {
    using parameters = open()
    using trainer = trainerOf(parameters, opt, {})
    for (let step = 0; step < steps; step++) {
      const report = await trainer.step()
      expect(Math.abs(report.loss - trace.losses[step]!), `loss of step ${step}`).toBeLessThan(lossTolerance)
      // Its float64 run: PyTorch's float32 run of GPT-2 misses that by up to 1.1e-4, ours by AVX2 in the same steps by as much,
      // plain ggml by 7e-5.
      const norm = golden.float64.grad_norms[step]!
      const theirs = Math.abs(trace.grad_norms[step]! / norm - 1)
      const normTolerance = kernels === undefined ? 1e-4 : byNarrow ? Math.max(5e-5, 1.2 * theirs) : 5e-5
      expect(Math.abs(report.gradientNorm / norm - 1), `norm of step ${step}`).toBeLessThan(normTolerance)
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

  test('products in bfloat16 learn at nearly the same pace', async () => {
    const lossesOf = async (seed: number, precision: Precision) => {
      using parameters = open()
      using trainer = trainerOf(parameters, opt, { precision }, seed)
      const losses: number[] = []
      for (let step = 0; step < steps; step++) losses.push((await trainer.step()).loss)
      return losses
    }
    const worst: number[] = []
    for (let seed = goldenSeed; seed < goldenSeed + 9; seed++) {
      const [exact, rounded] = [await lossesOf(seed, 'f32'), await lossesOf(seed, 'bf16')]
      const misses = exact.map((loss, step) => Math.abs(rounded[step]! / loss - 1))
      expect(Math.max(...misses), `losses of seed ${seed}`).toBeLessThan(5e-2)
      worst.push(Math.max(...misses))
    }
    worst.sort((a, b) => a - b)
    expect(worst[4], 'the median of nine').toBeLessThan(bf16Tolerance)
  })
})
