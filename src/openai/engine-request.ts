import { randomInt } from 'node:crypto'
import type { GenerationFields } from '../api/fields.ts'
import { deriveSeed } from '../base/random.ts'
import { Problem } from '../http/problem.ts'
import type { EngineRequest, Sampling } from '../serve/request.ts'
import type { ConstraintChecks } from './constraint-checks.ts'
import { constraintOf } from './response-format.ts'

/** What a model's generation_config says; OpenAI's defaults fill the rest. */
export interface GenerationDefaults {
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  repetitionPenalty?: number
}

/** For whom something is generated, and by which adapter of the model. */
export interface Asker {
  tenant: string
  adapter?: string | undefined
}

export interface RequestFrame extends Asker {
  defaults: GenerationDefaults
  /** The model's own ending tokens. */
  endTokens: readonly number[]
  /** Tokens that the model knows; ids in the body lie below it. */
  vocabularySize: number
  checks: ConstraintChecks
}

/** The fields of the body as the engine wants them, but for the prompt and what differs between choices. */
export type RequestBase = Omit<EngineRequest, 'id' | 'prompt' | 'maxTokens'>

export async function requestBase(body: GenerationFields, frame: RequestFrame): Promise<RequestBase> {
  const base: RequestBase = {
    ...ending(body, frame),
    sampling: sampling(body, frame),
    tenant: frame.tenant,
    priority: body.priority ?? 0,
  }
  const constraint = await constraintOf(body, frame.checks)
  if (constraint !== undefined) base.constraint = constraint
  if (frame.adapter !== undefined) base.adapter = frame.adapter
  if (body.cache_salt !== undefined) base.cacheSalt = body.cache_salt
  if (body.pin_prefix_seconds !== undefined) base.pinPrefixMs = body.pin_prefix_seconds * 1000
  return base
}

/** Choice 0 gets the client's seed itself, so that a first choice does not depend on how many there are. */
export function seedOfChoice(seed: number, choice: number): number {
  return choice === 0 ? seed : deriveSeed(seed, `choice ${choice}`)
}

/** Stop strings as the client gave them, as a list. */
export function stopStrings(body: GenerationFields): readonly string[] {
  return typeof body.stop === 'string' ? [body.stop] : (body.stop ?? [])
}

function ending(body: GenerationFields, frame: RequestFrame) {
  const asked = body.stop_token_ids ?? []
  for (const [index, token] of asked.entries()) inVocabulary(token, frame, `stop_token_ids.${index}`)
  const ignoresEnd = body.ignore_eos ?? false
  return {
    minTokens: body.min_tokens ?? 0,
    // The client's own stop tokens still end a request that ignores the model's.
    ignoreEos: ignoresEnd && asked.length === 0,
    stopTokens: ignoresEnd && asked.length > 0 ? asked : [...new Set([...frame.endTokens, ...asked])],
  }
}

function sampling(body: GenerationFields, frame: RequestFrame): Sampling {
  const { defaults } = frame
  const chosen: Sampling = {
    temperature: body.temperature ?? defaults.temperature ?? 1,
    topP: body.top_p ?? defaults.topP ?? 1,
    // -1 is how other servers say "all".
    topK: Math.max(0, body.top_k ?? defaults.topK ?? 0),
    minP: body.min_p ?? defaults.minP ?? 0,
    seed: body.seed === undefined ? randomInt(2 ** 47) : foldSeed(body.seed),
    presencePenalty: body.presence_penalty ?? 0,
    frequencyPenalty: body.frequency_penalty ?? 0,
    repetitionPenalty: body.repetition_penalty ?? body.repeat_penalty ?? defaults.repetitionPenalty ?? 1,
  }
  const biases = Object.entries(body.logit_bias ?? {})
  for (const [token] of biases) inVocabulary(Number(token), frame, `logit_bias.${token}`)
  if (biases.length > 0) chosen.logitBias = Object.fromEntries(biases)
  return chosen
}

/** Any integer, negative or larger than a double counts exactly, onto the engine's range of seeds. */
function foldSeed(seed: number): number {
  const rest = seed % 2 ** 53
  return rest < 0 ? rest + 2 ** 53 : rest
}

function inVocabulary(token: number, frame: RequestFrame, field: string): void {
  if (token < frame.vocabularySize) return
  throw new Problem(400, 'token_out_of_range', `The vocabulary ends at token ${frame.vocabularySize - 1}.`, {
    param: field,
  })
}
