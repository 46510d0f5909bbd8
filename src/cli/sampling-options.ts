import { randomInt } from 'node:crypto'
import type { Command } from 'commander'
import type { GenerationDefaults } from '../openai/engine-request.ts'
import type { Sampling } from '../serve/request.ts'
import { collect, number, wholeNumber } from './options.ts'

export interface SamplingFlags {
  temperature?: number
  topP?: number
  topK?: number
  minP?: number
  seed?: number
  maxTokens?: number
  minTokens?: number
  ignoreEos?: boolean
  stop?: string[]
}

export function withSamplingOptions(command: Command): Command {
  return command
    .option('--max-tokens <n>', 'new tokens at most', wholeNumber(1))
    .option('--min-tokens <n>', 'do not end before so many new tokens', wholeNumber(0))
    .option('--ignore-eos', "go on past the model's ending token")
    .option('--temperature <t>', '0 takes the most likely token', number(0, 2))
    .option('--top-p <p>', 'keep the most likely tokens up to this probability', number(0, 1))
    .option('--top-k <k>', 'keep the k most likely tokens', wholeNumber(0))
    .option('--min-p <p>', 'keep tokens at least this share as likely as the best', number(0, 1))
    .option('--seed <n>', 'the same seed gives the same text', wholeNumber(0))
    .option('--stop <text>', 'end before this text (repeatable)', collect)
}

export function samplingOf(flags: SamplingFlags, defaults: GenerationDefaults): Sampling {
  return {
    temperature: flags.temperature ?? defaults.temperature ?? 0.8,
    topP: flags.topP ?? defaults.topP ?? 1,
    topK: flags.topK ?? defaults.topK ?? 0,
    minP: flags.minP ?? defaults.minP ?? 0,
    seed: flags.seed ?? randomInt(2 ** 47),
    presencePenalty: 0,
    frequencyPenalty: 0,
    repetitionPenalty: defaults.repetitionPenalty ?? 1,
  }
}
