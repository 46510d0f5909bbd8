/** Training traces that transformers and PyTorch made; `gen.py` beside them says exactly what was computed. */
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { loadKernels } from '../../src/runtime/kernels.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { sharedData } from '../shared.ts'
import {
  countedModel,
  device,
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
  /** Relative difference of a loss where products are bfloat16; PyTorch's own autocast is 0.9 % away on qwen3. */
  bf16Tolerance: number
  /** Not of the shared data. */
  own: boolean
}

const kernels = loadKernels()
const byNarrow = kernels !== undefined && !/^(avx512|amx)/.test(kernels.instructionSet)

/**
 * Products in bfloat16 came to 5.1e-3 of the loss in `llama_gqa`, to 1.6e-3 at most in the others of that line. Without
 * AVX-512, 7.9e-3 in `gpt2` (what its first layer norm makes of a difference of 3.8e-6, by AVX2 and by SSE2 alike) and 2.6e-3
 * in `qwen2`.
 */
const cases = [
  { name: 'gpt2', lossTolerance: 1e-4, bf16Tolerance: byNarrow ? 1e-2 : 2e-3, own: false },
  { name: 'llama_gqa', lossTolerance: 2e-5, bf16Tolerance: 6e-3, own: false },
  { name: 'qwen2', lossTolerance: 2e-5, bf16Tolerance: byNarrow ? 4e-3 : 2e-3, own: false },
  ...['llama_tied_sched_mask', 'llama_gqa_accum2', 'llama_packed'].map(
    (name): Case => ({ name, lossTolerance: 2e-5, bf16Tolerance: 2e-3, own: false }),
  ),
  ...['qwen3', 'mistral', 'phi3', 'granite', 'gemma3_text', 'olmo2', 'olmo3', 'smollm3'].map(
    (name): Case => ({ name, lossTolerance: 2e-5, bf16Tolerance: 2e-2, own: true }),
  ),
  ...['qwen3_moe', 'mixtral', 'olmoe', 'granitemoe', 'gpt_oss'].map(
    (name): Case => ({ name, lossTolerance: 2e-5, bf16Tolerance: 2e-2, own: true }),
  ),
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
    using parameters = open()
    using trainer = trainerOf(parameters, opt, { precision: 'bf16' })
    for (let step = 0; step < steps; step++) {
      const report = await trainer.step()
      const miss = Math.abs(report.loss / trace.losses[step]! - 1)
      expect(miss, `loss of step ${step}`).toBeLessThan(bf16Tolerance)
    }
  })
})
