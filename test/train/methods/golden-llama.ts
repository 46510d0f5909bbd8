/** The Llama that test/outside/preferences.py writes out, with the weights that it draws. */
import type { Device } from '../../../src/runtime/device.ts'
import { modelConfig } from '../../../src/train/model-config.ts'
import { createModel, type Parameters } from '../../../src/train/parameters.ts'
import { lcg } from '../golden.ts'

export interface GoldenLlama {
  vocabulary: number
  config: { layers: number; width: number; heads: number; key_value_heads: number; feed_forward: number }
}

function fnv(text: string): number {
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0
  return hash
}

export function goldenLlama(
  { vocabulary, config }: GoldenLlama,
  context: number,
  device: Device,
): Parameters {
  const sizes = { architecture: 'llama' as const, bias: false, tied: true, ...config }
  const special = { vocabularySize: vocabulary, bosToken: undefined, eosToken: 0 }
  const parameters = createModel(modelConfig(sizes, context, special), 1, device)
  for (const { spec, weight } of parameters.all) {
    const next = lcg(fnv(spec.name))
    const isVector = spec.shape.length === 1
    weight.write(
      Float32Array.from({ length: weight.size }, () => {
        const value = 2 * next() - 1
        return isVector ? 1 + 0.1 * value : 0.6 * value
      }),
    )
  }
  return parameters
}
