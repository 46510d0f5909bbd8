/**
 * Requests in random company on a real model: who arrives when, what is shared, how small the chunks and the
 * cache are, all from a seed. And the same requests alone.
 */
import { expect } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { deriveSeed, Random } from '../../src/base/random.ts'
import { type Constraint, Constraints } from '../../src/constrain/constraint.ts'
import { type Decision, replay } from '../../src/serve/decision-log.ts'
import type { Proposer } from '../../src/serve/draft-model.ts'
import { Engine } from '../../src/serve/engine.ts'
import type { Executor, ExecutorShape, IterationBatch, IterationOutput } from '../../src/serve/executor.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import type { EngineRequest, Finish, RequestProgress, TokenLogprob } from '../../src/serve/request.ts'
import { greedy, request } from './requests.ts'

/** A model's executor with another cache size, and with a clock that only its work moves. */
export class TimedExecutor implements Executor {
  readonly shape: ExecutorShape
  readonly #inner: Executor
  readonly #clock: ManualClock

  constructor(inner: Executor, clock: ManualClock, blockCount = inner.shape.blockCount) {
    this.shape = { ...inner.shape, blockCount }
    this.#inner = inner
    this.#clock = clock
  }

  async execute(batch: IterationBatch): Promise<IterationOutput> {
    const output = await this.#inner.execute(batch)
    const tokens = batch.sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    const computeMs = 1 + 0.02 * tokens
    this.#clock.advance(computeMs)
    return { ...output, computeMs }
  }

  dispose(): void {}
}

export interface Heard {
  tokens: number[]
  logprobs: TokenLogprob[]
  promptLogprobs: (TokenLogprob | null)[]
  embedding: Float32Array | undefined
  finish: Finish | undefined
}

export interface Company {
  blockCount: number
  options: Partial<SchedulerOptions>
  /** In order of arrival; `at` counts iterations. */
  arrivals: { at: number; request: EngineRequest }[]
  /** Iterations before which somebody goes away, and who. */
  departures: ReadonlyMap<number, string>
  /** How much is done at a time to find out what a constraint allows; as much as usual when it is left out. */
  slice?: number
}

/** A vocabulary as JSON is written with; which token writes what does not matter. */
function constraintsOf({ vocabularySize }: ExecutorShape, slice?: number): Constraints {
  const texts = Array.from({ length: vocabularySize }, (_, token) =>
    Buffer.from(String.fromCharCode(0x20 + (token % 95)).repeat(1 + (token % 3))),
  )
  return new Constraints(() => texts, undefined, slice)
}

const held: Constraint = {
  kind: 'json',
  schema: { type: 'array', items: { type: ['string', 'integer'], maxLength: 6 }, minItems: 2 },
}

/** What requests of one model are made of: some with texts in common, some long, some that repeat themselves. */
export function requestsFor(shape: ExecutorShape, seed: number, count: number): EngineRequest[] {
  const random = new Random(deriveSeed(seed, 'requests'))
  const token = () => 3 + random.integer(shape.vocabularySize - 3)
  const text = (length: number) => Array.from({ length }, token)
  const shared = [text(40), text(150)]
  return Array.from({ length: count }, (_, i) => {
    const repeats = i % 3 === 0
    const phrase = text(5)
    const own = repeats ? Array.from({ length: 20 }, (_, t) => phrase[t % 5]!) : text(1 + random.integer(30))
    const long = i === 6 && shape.contextMax >= 512
    const prompt = long
      ? text(270)
      : i % 4 === 3
        ? own
        : [...shared[i % 2]!.slice(0, i % 8 === 5 ? 33 : undefined), ...own]
    const sampled = { ...greedy, temperature: 0.4 + random.uniform(), seed: random.integer(1e6) }
    const topped = { ...sampled, topP: 0.9, topK: 40, frequencyPenalty: 0.2, repetitionPenalty: 1.1 }
    // Embeddings go with the texts: the mean of a shared prefix and what follows, and the last state.
    const pooling = i % 8 === 5 ? 'mean' : i % 8 === 7 ? 'last' : undefined
    if (pooling !== undefined) return request({ id: `r${i}`, prompt: [1, ...prompt], maxTokens: 1, pooling })
    return request({
      id: `r${i}`,
      prompt: [1, ...prompt],
      maxTokens: 12 + random.integer(40),
      sampling: [greedy, sampled, greedy, topped][i % 4]!,
      logprobs: 2,
      ...(i % 5 === 1 && { promptLogprobs: true }),
      ...(i % 7 === 2 && { pinPrefixMs: 50 }),
      priority: i % 6 === 4 ? 1 : 0,
      tenant: i % 10 === 9 ? 'other' : 'tenant',
      ...((i % 8 === 3 || i % 8 === 6) && { constraint: held }),
    })
  })
}

export function companyOf(seed: number, shape: ExecutorShape, requests: readonly EngineRequest[]): Company {
  const random = new Random(deriveSeed(seed, 'company'))
  const longest = Math.max(...requests.map(({ prompt, maxTokens }) => prompt.length + maxTokens))
  const runningMax = 1 + random.integer(random.uniform() < 0.2 ? 1 : 8)
  const options: Partial<SchedulerOptions> = {
    runningMax,
    stepTokensMax: runningMax + 1 + random.integer(random.uniform() < 0.3 ? 300 : 24),
    prefixCache: random.uniform() < 0.8,
    promptLogprobRowsMax: 1 + random.integer(40),
    guessesMax: random.uniform() < 0.6 ? 1 + random.integer(6) : 0,
    queueLimitMs: Number.POSITIVE_INFINITY,
  }
  const blocksMin = Math.ceil(longest / shape.blockTokens)
  const spare = random.integer(random.uniform() < 0.6 ? 4 : 3 * blocksMin)
  const blockCount = Math.min(shape.blockCount, blocksMin + spare)
  let at = 0
  const arrivals = shuffled(requests, random).map((request) => {
    if (random.uniform() < 0.5) at += random.integer(5)
    return { at, request }
  })
  const departures = new Map<number, string>()
  if (random.uniform() < 0.5) departures.set(5 + random.integer(30), arrivals[0]!.request.id)
  const slice = random.uniform() < 0.7 ? 4 + random.integer(60) : undefined
  return { blockCount, options, arrivals, departures, ...(slice !== undefined && { slice }) }
}

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const left = [...items]
  return items.map(() => left.splice(random.integer(left.length), 1)[0]!)
}

/** Serves a company to its end. */
export async function serveCompany(
  executor: Executor,
  { blockCount, options, arrivals, departures, slice }: Company,
  proposer?: Proposer,
) {
  const clock = new ManualClock()
  const decisions: Decision[] = []
  const heard = new Map<string, Heard>()
  const hear = ({ id, tokens, logprobs, promptLogprobs, embedding, finish }: RequestProgress) => {
    let one = heard.get(id)
    if (one === undefined)
      heard.set(id, (one = { tokens: [], logprobs: [], promptLogprobs: [], embedding, finish }))
    one.embedding = embedding
    one.tokens.push(...tokens)
    one.logprobs.push(...(logprobs ?? []))
    one.promptLogprobs.push(...(promptLogprobs ?? []))
    one.finish = finish
  }
  const engine = new Engine(
    new TimedExecutor(executor, clock, blockCount),
    options,
    clock,
    (items) => items.forEach(hear),
    { constraints: constraintsOf(executor.shape, slice), decisions: (decision) => decisions.push(decision) },
    proposer,
  )
  const left = [...arrivals]
  let worked = true
  for (let iteration = 0; worked || left.length > 0; iteration++) {
    while (left.length > 0 && left[0]!.at <= iteration) {
      const admission = engine.submit(left.shift()!.request)
      if (!admission.ok) throw new Error(`the company is admitted, not refused: ${admission.code}`)
    }
    const gone = departures.get(iteration)
    if (gone !== undefined) engine.cancel(gone)
    worked = await engine.step()
  }
  const { totals, roster } = engine.scheduler
  expect(replay(decisions).difference).toBeUndefined()
  const held = decisions.filter((decision) => decision.type === 'plan' && decision.held !== undefined).length
  return { heard, totals, preemptions: roster.preemptions, held }
}

/** What a request hears that has the device to itself, without chunks, cache hits or guesses. */
export async function serveAlone(executor: Executor, wish: EngineRequest): Promise<Heard> {
  const options = { runningMax: 1, stepTokensMax: 4096, promptLogprobRowsMax: 4096, prefixCache: false }
  const { blockCount } = executor.shape
  const arrivals = [{ at: 0, request: wish }]
  const { heard } = await serveCompany(executor, { blockCount, options, arrivals, departures: new Map() })
  return heard.get(wish.id)!
}

/** Where two answers differ in any bit, or undefined; one that was cut off is compared as far as it goes. */
export function difference(whole: Heard, heard: Heard): string | undefined {
  if (heard.finish?.reason !== 'aborted' && heard.tokens.length !== whole.tokens.length)
    return `${heard.tokens.length} tokens, alone ${whole.tokens.length}`
  for (const [i, token] of heard.tokens.entries()) {
    if (token !== whole.tokens[i]) return `token ${i}: ${token}, alone ${whole.tokens[i]}`
  }
  const place = heard.embedding?.findIndex((value, i) => !Object.is(value, whole.embedding?.[i])) ?? -1
  if (place >= 0) return `embedding ${place}: ${heard.embedding![place]}, alone ${whole.embedding?.[place]}`
  if (heard.finish?.reason !== 'aborted' && whole.embedding !== undefined && heard.embedding === undefined)
    return 'no embedding, alone one'
  for (const what of ['logprobs', 'promptLogprobs'] as const) {
    for (const [i, one] of heard[what].entries()) {
      const numbers = [one, whole[what][i]].map((entry) => flat(entry ?? null))
      const place = numbers[0]!.findIndex((value, n) => !Object.is(value, numbers[1]![n]))
      if (place >= 0) return `${what} ${i}: ${numbers[0]}, alone ${numbers[1]}`
    }
  }
  return undefined
}

function flat(entry: TokenLogprob | null): number[] {
  if (entry === null) return []
  return [entry.token, entry.logprob, ...entry.top.flatMap(({ token, logprob }) => [token, logprob])]
}
