import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { DType } from '../../../src/base/dtype.ts'
import { dequantize } from '../../../src/formats/convert.ts'
import { adapterTensorName, readAdapter } from '../../../src/models/adapter.ts'
import { openModel } from '../../../src/models/open.ts'
import { loadWeights } from '../../../src/models/weights.ts'
import { loadKernels } from '../../../src/runtime/kernels.ts'
import { AdapterPart } from '../../../src/train/methods/lora.ts'
import { loadModel, Parameters } from '../../../src/train/parameters.ts'
import { adaptedModel } from '../../../src/train/prepare-model.ts'
import { sharedData } from '../../shared.ts'
import { device, readGolden, sequences, sourceOf, steps, sumOf, tokens, trainerOf } from '../golden.ts'
import { logitsOf } from '../logits.ts'

const golden = sharedData('training-goldens', 'llama_lora')

/** The golden's base with PEFT's initial adapter. */
function adapted(quantize: DType = 'F32'): Parameters {
  using model = openModel(golden!)
  const frozen = loadWeights(model, device, { quantize, asEncoded: true })
  const { definition } = model
  const access = { weight: (name: string) => frozen.get(name), has: (name: string) => frozen.has(name) }
  const adapter = readAdapter(join(golden!, 'adapter_init'), definition)
  return new Parameters(definition, frozen, device, new AdapterPart(adapter, definition, access, device))
}

describe.skipIf(golden === undefined)('LoRA as PEFT trains it', () => {
  const { opt, float32: trace, float64 } = readGolden(golden && `${golden}.json`)
  const nameOf = (parameter: string) => parameter.replace(/(lora_[AB])\./, '$1.default.')

  test('losses, gradient norms and final adapters are those of PEFT and PyTorch', async () => {
    using parameters = adapted()
    using trainer = trainerOf(parameters, opt, {})
    for (let step = 0; step < steps; step++) {
      const report = await trainer.step()
      expect(Math.abs(report.loss - trace.losses[step]!), `loss of step ${step}`).toBeLessThan(2e-5)
      expect(Math.abs(report.gradientNorm / trace.grad_norms[step]! - 1)).toBeLessThan(1e-4)
    }
    for (const { spec, weight } of parameters.all) {
      const expected = float64.param_sum_final[nameOf(spec.name)]!
      const drift = Math.abs(trace.param_sum_final[nameOf(spec.name)]! - expected)
      expect(Math.abs(sumOf(weight.toFloats()) - expected), spec.name).toBeLessThan(5 * drift + 1e-4)
    }
    const final = readAdapter(join(golden!, 'adapter_final'), parameters.definition)
    for (const { name, a, b } of final.layers.values()) {
      for (const [part, values] of [
        ['a', a],
        ['b', b],
      ] as const) {
        const { weight } = parameters.all.find(({ spec }) => spec.name === adapterTensorName(name, part))!
        const apart = weight.toFloats().map((value, i) => Math.abs(value - values[i]!))
        expect(Math.max(...apart), `${name} ${part}`).toBeLessThan(1e-3)
      }
    }
  })

  test('every named gradient of the first step, and no other, has the length that PyTorch found', async () => {
    using parameters = adapted()
    using trainer = trainerOf(parameters, opt, {})
    const norms = await trainer.gradientNorms()
    expect([...norms.keys()].map(nameOf).sort()).toEqual(Object.keys(trace.grad_l2_step0).sort())
    for (const [name, norm] of norms)
      expect(Math.abs(norm / trace.grad_l2_step0[nameOf(name)]! - 1), name).toBeLessThan(1e-4)
  })

  test('logits with the adapter add up to those of PyTorch', () => {
    using parameters = adapted()
    const logits = logitsOf(parameters, device, sourceOf(opt).at(0))
    expect(sumOf(logits)).toBeCloseTo(trace.logits_sum_step0!, 3)
  })

  test('the frozen weights are the same bytes after training', async () => {
    using parameters = adapted()
    using trainer = trainerOf(parameters, opt, {})
    const frozen = () => [...parameters.weight('model.layers.0.mlp.up_proj.weight').toFloats()]
    const before = frozen()
    await trainer.step()
    expect(frozen()).toEqual(before)
  })

  test.each([
    { quantize: 'F16', tolerance: 2e-3 },
    { quantize: 'BF16', tolerance: 2e-2 },
    { quantize: 'Q8_0', tolerance: 3e-2 },
    { quantize: 'Q4_0', tolerance: 0.25 },
  ] as const)('over a base in $quantize, gradients stay near those of the exact base', async (entry) => {
    const normsOf = async (dtype: DType) => {
      using parameters = adapted(dtype)
      using trainer = trainerOf(parameters, opt, {})
      return [...(await trainer.gradientNorms()).values()]
    }
    const [exact, rough] = [await normsOf('F32'), await normsOf(entry.quantize)]
    const apart = Math.hypot(...exact.map((norm, i) => norm - rough[i]!)) / Math.hypot(...exact)
    expect(apart).toBeGreaterThan(0)
    expect(apart).toBeLessThan(entry.tolerance)
  })

  // Without kernels of our own ggml multiplies, which rounds activations to the format of the weight.
  test.skipIf(loadKernels() === undefined).each(['BF16', 'Q8_0', 'Q4_0'] as const)(
    'over a base in %s, every bit is that of the same numbers in F32',
    async (quantize) => {
      using coded = adapted(quantize)
      using plain = adapted()
      for (const name of plain.weights.names()) {
        const [from, to] = [coded.weight(name), plain.weight(name)]
        const bytes = new Uint8Array(from.bytes)
        from.read(bytes)
        to.write(dequantize(from.dtype, bytes, from.size))
      }
      for (const precision of ['f32', 'bf16'] as const) {
        const learned = async (parameters: Parameters) => {
          using trainer = trainerOf(parameters, opt, { precision })
          return [...(await trainer.gradientNorms()).entries()]
        }
        expect(await learned(coded)).toEqual(await learned(plain))
      }
    },
  )

  test.each(['head for supervised rows', "ggml's products"])(
    'with the %s it trains the same',
    async (how) => {
      const shape = how.startsWith('head') ? { supervisedMax: sequences * tokens - 1 } : { ownKernels: false }
      using parameters = adapted()
      using trainer = trainerOf(parameters, opt, shape)
      for (let step = 0; step < steps; step++)
        expect(Math.abs((await trainer.step()).loss - trace.losses[step]!)).toBeLessThan(2e-5)
    },
  )

  test.each([false, true])(
    'a fresh adapter is a function of its seed and changes no logit (DoRA: %s)',
    (dora) => {
      using plain = loadModel(golden!, device)
      const options = {
        rank: 4,
        alpha: 8,
        targets: 'all',
        rank_stabilised: false,
        dora,
        quantize: 'f32',
      } as const
      const [first, again, other] = [5, 5, 6].map((seed) => adaptedModel(golden!, options, seed, device))
      const batch = sourceOf(opt).at(0)
      const base = logitsOf(plain, device, batch)
      const beside = logitsOf(first!, device, batch)
      expect(Math.max(...base.map((x, i) => Math.abs(x - beside[i]!)))).toBeLessThan(dora ? 1e-5 : 1e-9)
      const numbers = (model: Parameters) => model.all.map(({ weight }) => [...weight.toFloats()])
      expect(numbers(first!)).toEqual(numbers(again!))
      expect(numbers(first!)).not.toEqual(numbers(other!))
      for (const model of [first!, again!, other!]) model.dispose()
    },
  )
})
