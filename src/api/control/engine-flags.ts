/** Flags of `ropeway serve` that a deployment may set, and what they take: the command line holds its own to the same. */
import { z } from 'zod'

/** The least and the most of those that take a whole number. */
export const engineNumbers = {
  threads: [1, 256],
  context: [2, Number.MAX_SAFE_INTEGER],
  'cache-tokens': [16, Number.MAX_SAFE_INTEGER],
  running: [1, Number.MAX_SAFE_INTEGER],
  'step-tokens': [2, Number.MAX_SAFE_INTEGER],
  speculate: [0, 16],
} as const satisfies Record<string, readonly [least: number, most: number]>

export const cacheFormats = ['f16', 'bf16', 'q8_0', 'f32'] as const

/** Of a flag, as it is typed or written into a file; undefined for what is no whole number or out of range. */
export function wholeNumberIn(given: string | number, least: number, most: number): number | undefined {
  const value = Number(given)
  const isIn = Number.isInteger(value) && value >= least && value <= most && String(given).trim() !== ''
  return isIn ? value : undefined
}

const units = { '': 1, ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** `60ms`, `2s`, `1m`, `3h`, `7d`; a bare number is milliseconds. Undefined for what is no time. */
export function millisecondsOf(given: string | number): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(String(given).trim())
  return match === null ? undefined : Number(match[1]) * units[(match[2] ?? '') as keyof typeof units]
}

export const timeHint = 'It takes a time such as 60ms, 2s, 1m, 3h or 7d.'

export function rangeHint(least: number, most: number): string {
  return `It takes a whole number from ${least} to ${most}.`
}

const flag = z.union([z.string().min(1).max(200), z.number()])
const whole = (name: keyof typeof engineNumbers) => {
  const [least, most] = engineNumbers[name]
  const isRight = (given: string | number) => wholeNumberIn(given, least, most) !== undefined
  return flag.refine(isRight, rangeHint(least, most)).optional()
}

export const engineFields = {
  threads: whole('threads'),
  context: whole('context'),
  'cache-tokens': whole('cache-tokens'),
  'kv-type': z.enum(cacheFormats).optional(),
  device: z.string().min(1).max(200).optional(),
  running: whole('running'),
  'step-tokens': whole('step-tokens'),
  'goal-ttft': flag.refine((given) => millisecondsOf(given) !== undefined, timeHint).optional(),
  speculate: whole('speculate'),
}

export const engineFlags = Object.keys(engineFields)

/** What a version was made with, maybe before flags were held to what they take. */
export const engineSeen = z.record(z.string(), flag.optional())
