/** What a GGUF file says of gpt-oss, and which of its networks llama.cpp has. */
import { UserError } from '../../base/errors.ts'
import type { GgufEntry } from '../../formats/gguf-values.ts'
import type { ModelConfig } from '../../models/architecture.ts'
import type { LlamaConfig } from '../../models/llama.ts'

/** Metadata of windows and of YaRN; llama.cpp knows which layers have a window, and where gates end. */
export function gptOssSizes(config: ModelConfig): [string, GgufEntry][] {
  const { attention, contextMax } = config
  const { mixture } = config as LlamaConfig
  const refuse = (what: string) =>
    new UserError(`GGUF has no form for a gpt-oss ${what}.`, { fix: 'Export as safetensors instead.' })
  const window = attention[0]!.window ?? contextMax
  const alternates = attention.every(
    (one, layer) => one.window === (layer % 2 === 0 ? attention[0]!.window : undefined),
  )
  if (!alternates) throw refuse('but one with a window in every second layer, the first among them')
  if (mixture?.limit !== 7) throw refuse(`whose gates end at ${mixture?.limit} and not at 7`)
  const { yarn, factors, attributes } = attention[0]!.rope!
  const word = (name: string, entry: GgufEntry): [string, GgufEntry] => [`gpt-oss.${name}`, entry]
  const windowed = word('attention.sliding_window', { type: 'uint32', value: window })
  if (yarn === undefined) {
    if (factors !== undefined || attributes.scale !== 1)
      throw refuse('with a rope scaling other than YaRN between whole pairs (truncate: false)')
    return [windowed]
  }
  if (Math.abs(attributes.attnFactor - (1 + 0.1 * Math.log(yarn.factor))) > 1e-6)
    throw refuse("whose attention_factor is not YaRN's own")
  return [
    windowed,
    word('rope.scaling.type', { type: 'string', value: 'yarn' }),
    word('rope.scaling.factor', { type: 'float32', value: yarn.factor }),
    word('rope.scaling.original_context_length', { type: 'uint32', value: yarn.original }),
    word('rope.scaling.yarn_beta_fast', { type: 'float32', value: yarn.betaFast }),
    word('rope.scaling.yarn_beta_slow', { type: 'float32', value: yarn.betaSlow }),
  ]
}
