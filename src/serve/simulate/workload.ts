import { deriveSeed, Random } from '../../base/random.ts'
import type { EngineRequest, Sampling } from '../request.ts'

/** One request of a workload: how long it is and when it comes, not what it says. */
export interface Arrival {
  atMs: number
  promptTokens: number
  outputTokens: number
  /** What the prompt consists of, where that is known: equal numbers are equal pieces of text. */
  pieces?: readonly number[]
}

export interface Lengths {
  prompt: readonly [min: number, max: number]
  output: readonly [min: number, max: number]
}

/** The lengths of the OSDI 2022 evaluation. */
export const publishedLengths: Lengths = { prompt: [32, 512], output: [1, 128] }

/** Poisson arrivals of requests with uniform lengths; equal seeds give equal lengths at every rate. */
export function poisson(count: number, perSecond: number, lengths: Lengths, seed: number): Arrival[] {
  const gaps = new Random(deriveSeed(seed, 'gaps'))
  const sizes = new Random(deriveSeed(seed, 'sizes'))
  let atMs = 0
  return Array.from({ length: count }, () => {
    atMs += (-Math.log(1 - gaps.uniform()) / perSecond) * 1000
    return {
      atMs,
      promptTokens: uniform(sizes, lengths.prompt),
      outputTokens: uniform(sizes, lengths.output),
    }
  })
}

function uniform(random: Random, [min, max]: readonly [number, number]): number {
  return min + random.integer(max - min + 1)
}

const dayMs = 86_400_000
// Mean and spread of the logarithms of the lengths in Azure's conversation trace of 2023, roughly.
const dayPrompt = { log: Math.log(800), spread: 0.9, max: 4096 }
const dayOutput = { log: Math.log(130), spread: 0.8, max: 1000 }
/** The busiest moment has (1 + swing) times the mean rate, the quietest (1 - swing). */
const daySwing = 0.6

/**
 * A day of `count` requests: rate like a sine with its peak in the afternoon; lengths lognormal as in
 * conversations, or uniform in `lengths`.
 */
export function day(count: number, seed: number, lengths?: Lengths): Arrival[] {
  const times = new Random(deriveSeed(seed, 'times'))
  const sizes = new Random(deriveSeed(seed, 'sizes'))
  const lognormal = ({ log, spread, max }: typeof dayPrompt) =>
    Math.max(1, Math.min(max, Math.round(Math.exp(log + spread * sizes.normal()))))
  const moments = new Float64Array(count)
  for (let i = 0; i < count; ) {
    const share = times.uniform()
    const rate = 1 - daySwing * Math.cos(2 * Math.PI * (share - 1 / 8))
    if (times.uniform() * (1 + daySwing) < rate) moments[i++] = share * dayMs
  }
  return Array.from(moments.sort(), (atMs) => ({
    atMs,
    promptTokens: lengths === undefined ? lognormal(dayPrompt) : uniform(sizes, lengths.prompt),
    outputTokens: lengths === undefined ? lognormal(dayOutput) : uniform(sizes, lengths.output),
  }))
}

const greedy: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  seed: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
}

const blanks = new Map<number, readonly number[]>()

/** A prompt without meaning; those of one length are one array, which matters for a million of them. */
function blank(length: number): readonly number[] {
  const known = blanks.get(length)
  if (known !== undefined) return known
  // Grown and not allocated at once: V8 copies an array that never had holes several times faster.
  const prompt: number[] = []
  while (prompt.length < length) prompt.push(0)
  blanks.set(length, prompt)
  return prompt
}

/** Pieces of the Mooncake traces stand for so many tokens each. */
const pieceTokens = 512

/** The request of an arrival; it generates exactly its output tokens. */
export function requestOf(arrival: Arrival, id: string, prompt?: readonly number[]): EngineRequest {
  const { pieces, promptTokens } = arrival
  const known =
    pieces && Array.from({ length: promptTokens }, (_, i) => pieces[Math.floor(i / pieceTokens)] ?? 0)
  return {
    id,
    prompt: prompt ?? known ?? blank(promptTokens),
    sampling: greedy,
    maxTokens: arrival.outputTokens,
    minTokens: arrival.outputTokens,
    ignoreEos: true,
    stopTokens: [],
    tenant: 'everybody',
    priority: 0,
  }
}
