/** PEFT's adapter_config.json: what it says, and what of it Ropeway computes. */
import { UserError } from '../base/errors.ts'

/** An adapter without its numbers. */
export interface AdapterSettings {
  rank: number
  alpha: number
  /** Chance that an element of the input is left out while training. */
  dropout: number
  /** Endings of the names of the products that are adapted. */
  targets: readonly string[]
  /** Scale by alpha / sqrt(rank) instead of alpha / rank. */
  rankStabilised: boolean
  dora: boolean
  /** Products whose alpha is another, by name or the end of it. */
  alphaPattern: Readonly<Record<string, number>>
  /** Path or name of the model that it was made for, where the file says so. */
  base: string | undefined
}

/** What PEFT can do beyond this; each changes what is computed, so it is refused rather than left out. */
const unbuilt: Readonly<Record<string, readonly unknown[]>> = {
  bias: ['none'],
  lora_bias: [false],
  use_qalora: [false],
  use_bdlora: [],
  modules_to_save: [],
  trainable_token_indices: [],
  target_parameters: [],
  layer_replication: [],
  megatron_config: [],
  alora_invocation_tokens: [],
  arrow_config: [],
}

export function readAdapterSettings(path: string, config: Record<string, unknown>): AdapterSettings {
  if (config.peft_type !== 'LORA') throw refuse(path, 'peft_type', config.peft_type, '"LORA"')
  for (const [field, allowed] of Object.entries(unbuilt)) {
    const value = config[field] ?? undefined
    const empty = Array.isArray(value) && value.length === 0
    if (value !== undefined && !empty && !allowed.includes(value))
      throw refuse(
        path,
        field,
        value,
        ['absent', ...allowed.map((entry) => JSON.stringify(entry))].join(' or '),
      )
  }
  const rank = numberIn(path, config, 'r')
  if (!Number.isInteger(rank) || rank < 1) throw refuse(path, 'r', rank, 'a whole number of at least 1')
  return {
    rank,
    alpha: numberIn(path, config, 'lora_alpha'),
    dropout: config.lora_dropout === undefined ? 0 : numberIn(path, config, 'lora_dropout'),
    targets: targetsIn(config.target_modules),
    rankStabilised: flagIn(path, config, 'use_rslora'),
    dora: flagIn(path, config, 'use_dora'),
    alphaPattern: patternIn(path, config),
    base: typeof config.base_model_name_or_path === 'string' ? config.base_model_name_or_path : undefined,
  }
}

function refuse(path: string, field: string, value: unknown, expected: string): UserError {
  const shown = value === undefined ? 'missing' : JSON.stringify(value)
  return new UserError(`${path}: ${field} is ${shown}; Ropeway takes ${expected}.`, {
    fix: 'Merge that adapter into its model with PEFT (merge_and_unload) and use the merged model.',
  })
}

function numberIn(path: string, config: Record<string, unknown>, field: string): number {
  const value = config[field]
  if (typeof value !== 'number' || !Number.isFinite(value)) throw refuse(path, field, value, 'a number')
  return value
}

function flagIn(path: string, config: Record<string, unknown>, field: string): boolean {
  const value = config[field] ?? false
  if (typeof value !== 'boolean') throw refuse(path, field, value, 'true or false')
  return value
}

/** Only informative: which products are adapted is what the tensors say. */
function targetsIn(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  return Array.isArray(value) ? value.filter((entry) => typeof entry === 'string') : []
}

function patternIn(path: string, config: Record<string, unknown>): Record<string, number> {
  const value = config.alpha_pattern ?? {}
  if (typeof value !== 'object' || value === null) throw refuse(path, 'alpha_pattern', value, 'an object')
  for (const [key, alpha] of Object.entries(value)) {
    // PEFT reads keys as regular expressions; a stranger's expression is not run here.
    if (!/^[\w.]+$/.test(key)) throw refuse(path, 'alpha_pattern', key, 'names of products or ends of them')
    if (typeof alpha !== 'number' || !Number.isFinite(alpha))
      throw refuse(path, `alpha_pattern.${key}`, alpha, 'a number')
  }
  return value as Record<string, number>
}

/** What B A x of product `name` is multiplied by. */
export function scaleOf(settings: AdapterSettings, name: string, rank: number): number {
  const key = Object.keys(settings.alphaPattern).find((end) => name === end || name.endsWith(`.${end}`))
  const alpha = key === undefined ? settings.alpha : settings.alphaPattern[key]!
  return alpha / (settings.rankStabilised ? Math.sqrt(rank) : rank)
}

/** The JSON that PEFT reads. `transposed`: the base keeps its products as [inputs, outputs] (GPT-2). */
export function adapterConfig(settings: AdapterSettings, transposed: boolean): Record<string, unknown> {
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: settings.base ?? null,
    r: settings.rank,
    lora_alpha: settings.alpha,
    lora_dropout: settings.dropout,
    target_modules: settings.targets,
    use_rslora: settings.rankStabilised,
    use_dora: settings.dora,
    alpha_pattern: settings.alphaPattern,
    rank_pattern: {},
    bias: 'none',
    fan_in_fan_out: transposed,
    init_lora_weights: true,
    inference_mode: true,
    modules_to_save: null,
  }
}
