/** Training traces that transformers and PyTorch made; `gen.py` beside them says exactly what was computed. */
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadModel } from '../../src/train/parameters.ts'
import { sharedData } from '../shared.ts'
import { device, readGolden, sequences, sourceOf, steps, sumOf, tokens, trainerOf } from './golden.ts'
import { logitsOf } from './logits.ts'

const folder = sharedData('training-goldens')

/** Losses to 2e-5, but for GPT-2, whose first layer norm meets rows of nearly equal numbers. */
const cases = [
  { name: 'gpt2', lossTolerance: 1e-4 },
  { name: 'llama_gqa', lossTolerance: 2e-5 },
  { name: 'llama_tied_sched_mask', lossTolerance: 2e-5 },
  { name: 'llama_gqa_accum2', lossTolerance: 2e-5 },
  { name: 'qwen2', lossTolerance: 2e-5 },
  { name: 'llama_packed', lossTolerance: 2e-5 },
]

describe.skipIf(folder === undefined).each(cases)('$name', ({ name, lossTolerance }) => {
  const golden = readGolden(folder && join(folder, `${name}.json`))
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

  test('products in bfloat16 learn at nearly the same pace', async () => {
    using parameters = open()
    using trainer = trainerOf(parameters, opt, { precision: 'bf16' })
    for (let step = 0; step < steps; step++) {
      const report = await trainer.step()
      expect(Math.abs(report.loss / trace.losses[step]! - 1), `loss of step ${step}`).toBeLessThan(1e-2)
    }
  })
})
