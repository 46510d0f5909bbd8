import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { mostLikely, tokenLogprob } from '../../src/serve/logprobs.ts'
import type { EngineRequest, Sampling } from '../../src/serve/request.ts'
import { Sampler, SamplingMemory } from '../../src/serve/sampler.ts'
import { expNegative, exponentMax, largest } from '../../src/serve/softmax.ts'
import { greedy, request } from './requests.ts'

const rowOf = (logits: Float32Array) => ({ logits: () => logits, argmax: () => largest(logits) })

function randomLogits(seed: number, size: number, scale = 3): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: size }, () => scale * random.normal())
}

function choose(
  logits: Float32Array,
  sampling: Partial<Sampling>,
  given: Partial<EngineRequest> = {},
  generated: number[] = [],
) {
  const wish = request({ ...given, sampling: { ...greedy, ...sampling } })
  const memory = new SamplingMemory(wish, [...wish.prompt, ...generated])
  return new Sampler(logits.length).choose(rowOf(logits), memory)
}

/** The kept tokens and their probabilities, by sorting everything: slow, plain, and what the names promise. */
function reference(
  logits: Float32Array,
  { temperature = 1, topK = 0, minP = 0, topP = 1 }: Partial<Sampling>,
) {
  const best = Math.max(...logits)
  let kept = Array.from(logits, (logit, token) => ({ token, weight: Math.exp((logit - best) / temperature) }))
  kept.sort((a, b) => b.weight - a.weight || a.token - b.token)
  if (topK > 0) kept = kept.slice(0, topK)
  kept = kept.filter(({ weight }) => weight >= minP)
  const total = kept.reduce((sum, { weight }) => sum + weight, 0)
  let before = 0
  kept = kept.filter(({ weight }) => {
    const keeps = before < topP * total
    before += weight
    return keeps
  })
  const mass = kept.reduce((sum, { weight }) => sum + weight, 0)
  return new Map(kept.map(({ token, weight }) => [token, weight / mass]))
}

test.each([
  {},
  { temperature: 0.7 },
  { topK: 5 },
  { topP: 0.8 },
  { minP: 0.1 },
  { temperature: 1.5, topK: 20, topP: 0.9, minP: 0.02 },
  { temperature: 30, topP: 0.5 },
])('tokens are drawn with the probabilities that a full sort gives: %o', (sampling) => {
  const logits = randomLogits(1, 60)
  const expected = reference(logits, sampling)
  const draws = 4_000
  const counts = new Map<number, number>()
  const wish = request({ sampling: { ...greedy, temperature: 1, ...sampling, seed: 11 } })
  const sampler = new Sampler(logits.length)
  const memory = new SamplingMemory(wish, wish.prompt)
  for (let i = 0; i < draws; i++) {
    const token = sampler.choose(rowOf(logits), memory)
    counts.set(token, (counts.get(token) ?? 0) + 1)
    memory.add(token)
  }
  for (const token of counts.keys()) expect(expected.has(token)).toBe(true)
  for (const [token, probability] of expected) {
    const deviation = Math.sqrt((probability * (1 - probability)) / draws)
    expect(Math.abs((counts.get(token) ?? 0) / draws - probability)).toBeLessThan(5 * deviation + 1e-4)
  }
})

test('the n-th token depends on the seed and on n, not on what was sampled in between', () => {
  const logits = randomLogits(2, 200)
  const after = (generated: number[]) => choose(logits, { temperature: 1, seed: 9 }, {}, generated)
  expect(after([1, 2, 3])).toBe(after([7, 7, 7]))
  const row = Array.from({ length: 50 }, (_, n) => after(new Array(n).fill(0)))
  expect(new Set(row).size).toBeGreaterThan(10)
})

test('greedy takes the lowest id on ties, and so do limits', () => {
  const logits = Float32Array.from([1, 3, 3, 3, 0])
  expect(choose(logits, {})).toBe(1)
  expect(choose(logits, { logitBias: { 1: -5 } })).toBe(2)
  for (let seed = 0; seed < 50; seed++) {
    expect([1, 2]).toContain(choose(logits, { temperature: 1, topK: 2, seed }))
    expect(choose(logits, { temperature: 1, topP: 0.0001, seed })).toBe(1)
  }
})

test('greedy without conditions never reads the row', () => {
  const wish = request()
  const row = {
    logits: () => {
      throw new Error('the row was read')
    },
    argmax: () => 3,
  }
  expect(new Sampler(8).choose(row, new SamplingMemory(wish, wish.prompt))).toBe(3)
})

test('the row of the device is not changed by bias, penalties and masks', () => {
  const logits = randomLogits(3, 40)
  const before = logits.slice()
  choose(
    logits,
    { logitBias: { 3: 100 }, presencePenalty: 1, repetitionPenalty: 2 },
    { minTokens: 2, stopTokens: [5] },
    [1],
  )
  expect(logits).toEqual(before)
})

test('bias, presence, frequency and repetition act on the logits as documented', () => {
  const logits = Float32Array.from([0, 2, 1.9, -1, 1])
  expect(choose(logits, { logitBias: { 4: 5 } }, { prompt: [0] })).toBe(4)
  expect(choose(logits, { presencePenalty: 0.2 }, { prompt: [1] }, [1])).toBe(2)
  // The prompt counts for repetition only.
  expect(choose(logits, { presencePenalty: 0.2 }, { prompt: [1] })).toBe(1)
  expect(choose(logits, { repetitionPenalty: 1.2 }, { prompt: [1] })).toBe(2)
  expect(choose(logits, { frequencyPenalty: 0.04 }, { prompt: [0] }, [1, 1])).toBe(1)
  expect(choose(logits, { frequencyPenalty: 0.04 }, { prompt: [0] }, [1, 1, 1])).toBe(2)
  // Negative logits are multiplied: repetition never makes a token likelier.
  const negative = Float32Array.from([-1, -1.1])
  expect(choose(negative, { repetitionPenalty: 1.2 }, { prompt: [0] })).toBe(1)
})

test('stop tokens are masked until minTokens, and never when they do not end anything', () => {
  const logits = Float32Array.from([9, 1, 0])
  const given = { minTokens: 2, stopTokens: [0], prompt: [1] }
  expect(choose(logits, {}, given, [1])).toBe(1)
  expect(choose(logits, {}, given, [1, 1])).toBe(0)
  expect(choose(logits, {}, { ...given, ignoreEos: true }, [1])).toBe(0)
})

test('a row without a finite largest logit is refused', () => {
  const broken = new Float32Array(8).fill(Number.NaN)
  expect(() => choose(broken, { temperature: 1 })).toThrow('finite')
  expect(() => choose(broken.fill(-Infinity), { temperature: 1 })).toThrow('finite')
})

test('extreme temperatures and logits still give a token of the row', () => {
  const logits = Float32Array.from([-1e30, 5, 1e30, -Infinity])
  expect(choose(logits, { temperature: 1e-6 })).toBe(2)
  expect(choose(logits, { temperature: 1e30, topP: 1e-9 })).toBe(2)
  const flat = new Float32Array(5000)
  const drawn = new Set(Array.from({ length: 20 }, (_, seed) => choose(flat, { temperature: 1, seed })))
  expect(drawn.size).toBeGreaterThan(15)
})

test('log-probabilities equal a float64 log-softmax, ties by id', () => {
  const logits = randomLogits(4, 500)
  const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0)
  const { logprob, top } = tokenLogprob(logits, 17, 5)
  expect(logprob).toBeCloseTo(logits[17]! - Math.log(sum), 11)
  const sorted = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b)
  expect(top.map(({ token }) => token)).toEqual(sorted.slice(0, 5))
  expect(mostLikely(Float32Array.from([1, 2, 2, 2, 0]), 2)).toEqual([1, 2])
})

test('the fast exponential is within 1e-13 of the exact one', () => {
  for (let d = 0; d < exponentMax; d += 0.00713) {
    expect(Math.abs(expNegative(d) / Math.exp(-d) - 1)).toBeLessThan(1e-13)
  }
})

test('sampling from 150,000 tokens takes a fraction of the time of sorting them', () => {
  const logits = randomLogits(5, 151_936)
  const sampler = new Sampler(logits.length)
  const wish = request({ sampling: { ...greedy, temperature: 1, topP: 0.9 } })
  const memory = new SamplingMemory(wish, wish.prompt)
  const userMs = (times: number, work: () => void) => {
    for (let i = 0; i < 3; i++) work()
    const start = process.cpuUsage().user
    for (let i = 0; i < times; i++) work()
    return (process.cpuUsage().user - start) / 1000 / times
  }
  const sampleMs = userMs(12, () => sampler.choose(rowOf(logits), memory))
  const sortMs = userMs(2, () => Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!))
  expect(sampleMs).toBeLessThan(sortMs / 3)
})
