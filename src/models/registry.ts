import { UserError } from '../base/errors.ts'
import type { Architecture, ModelConfig } from './architecture.ts'
import { gemma3, gemma3Text } from './gemma3.ts'
import { gptOss } from './gpt-oss.ts'
import { gpt2 } from './gpt2.ts'
import { granite } from './granite.ts'
import { granitemoe } from './granitemoe.ts'
import { llama } from './llama.ts'
import { mistral } from './mistral.ts'
import { mixtral } from './mixtral.ts'
import { olmo2 } from './olmo2.ts'
import { olmo3 } from './olmo3.ts'
import { olmoe } from './olmoe.ts'
import { phi3 } from './phi3.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'
import { qwen3Moe } from './qwen3-moe.ts'
import { smollm3 } from './smollm3.ts'

/** Every architecture that can be served and trained, by `model_type`. */
const architectures: Record<string, Architecture | undefined> = {
  llama,
  mistral,
  qwen2,
  qwen3,
  phi3,
  granite,
  gemma3_text: gemma3,
  smollm3,
  olmo2,
  olmo3,
  qwen3_moe: qwen3Moe,
  mixtral,
  olmoe,
  granitemoe,
  gpt_oss: gptOss,
  gpt2,
}

/** Models with a text model inside, by `model_type`: what that one's config.json would be. */
const textParts: Record<string, ((config: Record<string, unknown>) => Record<string, unknown>) | undefined> =
  {
    gemma3: gemma3Text,
  }

/** What `model_type` may say. */
export function architectureNames(): string[] {
  return Object.keys(architectures)
}

export interface Definition {
  architecture: Architecture
  config: ModelConfig
}

/**
 * The definition for a config.json object; throws a UserError when its `model_type` is not built. `context`: how many tokens
 * will be used of it at most, for scalings that are chosen by that.
 */
export function defineModel(whole: Record<string, unknown>, context?: number): Definition {
  const config = textParts[String(whole.model_type)]?.(whole) ?? whole
  const modelType = config.model_type
  const architecture = typeof modelType === 'string' ? architectures[modelType] : undefined
  if (architecture === undefined) {
    throw new UserError(`config.json: model_type ${JSON.stringify(modelType)} is not built.`, {
      fix: `Built are: ${architectureNames().join(', ')}.`,
    })
  }
  return { architecture, config: architecture.parse(config, context) }
}

/** Number of parameters, counting a tied head once; `active` of those that a token meets, which is some of the experts. */
export function countParameters({ architecture, config }: Definition): { all: number; active: number } {
  const counts = { all: 0, active: 0 }
  for (const { shape, experts } of architecture.parameters(config)) {
    const size = shape.reduce((a, b) => a * b, 1)
    counts.all += size
    counts.active += experts === undefined ? size : (size / experts) * config.mixture!.used
  }
  return counts
}
