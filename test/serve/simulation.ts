import { assert } from '../../src/base/assert.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { deriveSeed, Random } from '../../src/base/random.ts'
import { type Decision, replay } from '../../src/serve/decision-log.ts'
import { DraftModel, type Proposer } from '../../src/serve/draft-model.ts'
import { Engine } from '../../src/serve/engine.ts'
import type { ExecutorShape } from '../../src/serve/executor.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import type { EngineRequest, Finish, RequestProgress } from '../../src/serve/request.ts'
import { precedes, type Sequence } from '../../src/serve/sequence.ts'
import type { TraceLine } from '../../src/serve/trace.ts'
import { alone, aloneEmbedding, FakeDevice } from './fake-device.ts'
import { FlakyProposer } from './fake-proposers.ts'
import { greedy, request } from './requests.ts'

// Two tokens end a request wherever a request lets them.
const vocabularySize = 24
const stopTokens = [0, 1]
/** Far more than any scenario needs; beyond it something starves. */
const iterationsMax = 4000

interface Scenario {
  shape: ExecutorShape
  options: Partial<SchedulerOptions>
  requests: { at: number; request: EngineRequest }[]
  cancelChance: number
  breakChance: number
  /** Who guesses beside the look-up: a copy of the model, somebody who knows nothing and breaks, or nobody. */
  draft: 'twin' | 'flaky' | undefined
}

function scenarioOf(random: Random): Scenario {
  const blockTokens = [1, 2, 4, 8][random.integer(4)]!
  const contextMax = 40 + random.integer(80)
  const blockCount = Math.ceil(contextMax / blockTokens / (1 + random.integer(3))) + random.integer(20)
  const shape = { vocabularySize, contextMax, blockTokens, blockCount }
  const runningMax = 1 + random.integer(10)
  const sometimes = <T>(value: T): T | undefined => (random.uniform() < 0.3 ? value : undefined)
  const options: Partial<SchedulerOptions> = {
    runningMax,
    stepTokensMax: runningMax + 1 + random.integer(40),
    waitingMax: 4 + random.integer(30),
    queueLimitMs: sometimes(30 + random.integer(200)) ?? Number.POSITIVE_INFINITY,
    ageingMs: [5, 50, 100_000][random.integer(3)]!,
    prefixCache: random.uniform() < 0.85,
    promptLogprobRowsMax: 1 + random.integer(8),
    guessesMax: random.uniform() < 0.4 ? 1 + random.integer(5) : 0,
    goalTpotMs: sometimes(1.5 + random.uniform() * 4),
    goalTtftMs: sometimes(5 + random.integer(100)),
  }
  const cancelChance = random.uniform() < 0.5 ? 0 : random.uniform() * 0.08
  const breakChance = random.uniform() < 0.75 ? 0 : 0.03
  const requests = requestsOf(random, shape)
  const draft = sometimes('twin' as const) ?? sometimes('flaky' as const)
  return { shape, options, requests, cancelChance, breakChance, draft }
}

function requestsOf(random: Random, shape: ExecutorShape): Scenario['requests'] {
  const text = (length: number) => Array.from({ length }, () => 2 + random.integer(6))
  const prefixes = Array.from({ length: 3 }, () => text(random.integer(shape.contextMax / 2)))
  const tenants = 1 + random.integer(4)
  const classes = 1 + random.integer(3)
  const list: Scenario['requests'] = []
  const count = 2 + random.integer(22)
  for (let at = 0, i = 0; i < count; i++) {
    if (random.uniform() < 0.5) at += random.integer(12)
    const prefix = random.uniform() < 0.6 ? prefixes[random.integer(3)]! : []
    const own = text(1 + random.integer(random.uniform() < 0.15 ? shape.contextMax : 12))
    const wish = request({
      id: `r${i}`,
      prompt: [...prefix, ...own],
      maxTokens: 1 + random.integer(24),
      minTokens: random.integer(4),
      stopTokens: random.uniform() < 0.5 ? stopTokens : [],
      ignoreEos: random.uniform() < 0.2,
      tenant: `tenant-${random.integer(tenants)}`,
      priority: random.integer(classes),
      sampling: samplingOf(random),
      ...(random.uniform() < 0.2 && { logprobs: random.integer(3) }),
      ...(random.uniform() < 0.15 && { promptLogprobs: true }),
      ...(random.uniform() < 0.15 && { pinPrefixMs: random.integer(100) }),
      ...(random.uniform() < 0.2 && { cacheSalt: 'salt' }),
    })
    if (i % 11 === 7) Object.assign(wish, { pooling: i % 2 === 0 ? 'last' : 'mean', maxTokens: 1 })
    else if (random.uniform() < 0.1 && wish.prompt.length + wish.maxTokens <= shape.contextMax) {
      const generated = alone(wish, vocabularySize)
      // A request that ended by a stop token has no tokens to go on from behind it.
      wish.generated = generated.slice(0, random.integer(generated.length))
    }
    list.push({ at, request: wish })
  }
  return list
}

function samplingOf(random: Random): EngineRequest['sampling'] {
  if (random.uniform() < 0.4) return greedy
  return {
    ...greedy,
    temperature: 0.2 + random.uniform(),
    seed: random.integer(1000),
    topK: random.uniform() < 0.3 ? 1 + random.integer(10) : 0,
    topP: random.uniform() < 0.3 ? 0.5 + random.uniform() / 2 : 1,
    frequencyPenalty: random.uniform() < 0.3 ? 0.3 : 0,
    repetitionPenalty: random.uniform() < 0.2 ? 1.2 : 1,
  }
}

export interface SimulationReport {
  iterations: number
  finishes: ReadonlyMap<string, Finish>
  preemptions: number
  cachedTokens: number
  guessed: number
}

/** Runs the random service of one seed to its end and throws at the first broken promise. */
export async function simulate(seed: number): Promise<SimulationReport> {
  return new Simulation(seed).run()
}

class Simulation {
  readonly #random: Random
  readonly #scenario: Scenario
  readonly #clock = new ManualClock()
  readonly #device: FakeDevice
  readonly #engine: Engine
  #draftDevice: FakeDevice | undefined
  readonly #decisions: Decision[] = []
  readonly #accepted = new Map<string, EngineRequest>()
  readonly #arrivedMs = new Map<string, number>()
  readonly #tokens = new Map<string, number[]>()
  readonly #embeddings = new Map<string, Float32Array>()
  readonly #finishes = new Map<string, Finish>()
  readonly #joined: string[] = []
  /** The first in the order of service, one iteration ago. */
  #first: Sequence | undefined
  #guessed = 0

  constructor(seed: number) {
    this.#scenario = scenarioOf(new Random(deriveSeed(seed, 'scenario')))
    this.#random = new Random(deriveSeed(seed, 'events'))
    const { shape, options } = this.#scenario
    this.#device = new FakeDevice(shape, this.#clock)
    this.#device.whileComputing = () => {
      this.#checkProgress()
      this.#cancelSome()
    }
    this.#engine = new Engine(
      this.#device,
      options,
      this.#clock,
      (items) => this.#hear(items),
      {
        trace: (line) => this.#checkIteration(line),
        decisions: (decision) => this.#decisions.push(decision),
      },
      this.#proposer(options),
    )
  }

  #proposer({ guessesMax = 0, runningMax = 1 }: Partial<SchedulerOptions>): Proposer | undefined {
    const { draft, shape } = this.#scenario
    if (draft === undefined) return undefined
    if (draft === 'flaky') return new FlakyProposer(this.#random, () => this.#random.integer(vocabularySize))
    const scratch = DraftModel.scratchBlocks(guessesMax, shape.blockTokens)
    const blockCount = shape.blockCount + runningMax * scratch
    const device = new FakeDevice({ ...shape, blockCount }, this.#clock)
    device.whileComputing = () => this.#cancelSome()
    this.#draftDevice = device
    return new DraftModel(device, shape.blockCount, scratch, this.#clock)
  }

  async run(): Promise<SimulationReport> {
    const { requests, breakChance } = this.#scenario
    for (let iteration = 0; ; iteration++) {
      assert(iteration < iterationsMax, 'nobody starves')
      while (requests.length > 0 && requests[0]!.at <= iteration) this.#submit(requests.shift()!.request)
      if (this.#random.uniform() < 0.3) this.#cancelSome()
      this.#device.breaks = this.#random.uniform() < breakChance
      const worked = await this.#engine.step()
      this.#device.breaks = false
      const violation = this.#device.violation ?? this.#draftDevice?.violation
      if (violation !== undefined) throw violation
      this.#checkBlocks()
      if (!worked && requests.length === 0) break
    }
    this.#checkEnd()
    const { totals, roster } = this.#engine.scheduler
    return {
      iterations: totals.iterations,
      finishes: this.#finishes,
      preemptions: roster.preemptions,
      cachedTokens: totals.cachedTokens,
      guessed: this.#guessed,
    }
  }

  #submit(wish: EngineRequest): void {
    this.#clock.advance(this.#random.integer(3))
    const admission = this.#engine.submit(wish)
    if (!admission.ok) return
    this.#accepted.set(wish.id, wish)
    this.#arrivedMs.set(wish.id, this.#clock.nowMs())
    this.#tokens.set(wish.id, [])
  }

  #cancelSome(): void {
    for (const id of this.#accepted.keys()) {
      if (this.#finishes.has(id) || this.#random.uniform() >= this.#scenario.cancelChance) continue
      const { roster, pool } = this.#engine.scheduler
      const sequence = roster.get(id)
      const alone = sequence?.blocks.filter((block) => pool.references(block) === 1).length ?? 0
      const available = pool.available
      this.#engine.cancel(id)
      assert(this.#finishes.get(id)?.reason === 'aborted', 'a cancelled request hears so at once')
      assert(pool.available === available + alone, 'a cancelled request frees its blocks at once')
    }
  }

  #hear(items: readonly RequestProgress[]): void {
    for (const { id, tokens, logprobs, embedding, finish } of items) {
      assert(this.#accepted.has(id), 'only accepted requests are heard of')
      assert(!this.#finishes.has(id), 'nothing is heard of a request after its end')
      this.#tokens.get(id)!.push(...tokens)
      if (embedding !== undefined) this.#embeddings.set(id, embedding)
      if (this.#accepted.get(id)!.logprobs !== undefined) {
        assert((logprobs?.length ?? 0) === tokens.length, 'every token has its log-probability')
        assert(
          tokens.every((token, i) => logprobs![i]!.token === token),
          'log-probabilities are in order',
        )
      }
      if (finish === undefined) continue
      this.#finishes.set(id, finish)
      const spent = Object.values(finish.timing).reduce((sum, ms) => sum + ms, 0)
      const latency = this.#clock.nowMs() - this.#arrivedMs.get(id)!
      assert(Math.abs(spent - latency) < 1e-6, 'the parts of the time add up to the latency')
      assert(
        Object.values(finish.timing).every((ms) => ms >= 0),
        'no part of the time is negative',
      )
    }
  }

  #checkIteration(line: TraceLine): void {
    const { options } = this.#engine.scheduler
    const tokens = line.sequences.reduce((sum, { count }) => sum + count, 0)
    assert(tokens <= line.budgetTokens && line.budgetTokens <= options.stepTokensMax, 'the budget is kept')
    assert(line.sequences.length <= options.runningMax, 'no more requests run than may')
    const { free, cached, held } = line.blocks
    assert(free + cached + held === this.#scenario.shape.blockCount, 'free, cached and held blocks add up')
    for (const { count, outputs } of line.sequences)
      if (outputs > 1) this.#guessed += Math.min(count, outputs) - 1
    this.#checkOrder(line)
    for (const id of line.joined) if (!this.#joined.includes(id)) this.#joined.push(id)
  }

  #checkProgress(): void {
    const { roster, totals } = this.#engine.scheduler
    const first = roster.running.at(0)!
    const computes = first.plannedIteration === totals.iterations - 1
    // One that has just come may find that another long prompt has had its share.
    assert(computes || first !== this.#first, 'the first in the order of service computes in every iteration')
    this.#first = first
  }

  // Joins for the first time come in the order of arrival, within one tenant and class.
  #checkOrder(line: TraceLine): void {
    for (const id of line.joined) {
      if (this.#joined.includes(id)) continue
      const { tenant, priority } = this.#accepted.get(id)!
      for (const [other, wish] of this.#accepted) {
        if (other === id) break
        if (wish.tenant !== tenant || wish.priority !== priority) continue
        const served =
          this.#joined.includes(other) || line.joined.includes(other) || this.#finishes.has(other)
        assert(served, `first come, first served within class and tenant: ${other} before ${id}`)
      }
    }
  }

  #checkBlocks(): void {
    const { pool, roster, cache } = this.#engine.scheduler
    pool.audit()
    const holders = new Map<number, number>()
    let previous: Sequence | undefined
    for (const sequence of roster.running) {
      assert(previous === undefined || precedes(previous, sequence), 'the batch is in its order of service')
      previous = sequence
      for (const block of sequence.blocks) holders.set(block, (holders.get(block) ?? 0) + 1)
    }
    let pinned = 0
    for (let block = 0; block < pool.blockCount; block++) {
      const more = pool.references(block) - (holders.get(block) ?? 0)
      assert(more >= 0, 'no block has more holders than references')
      pinned += more
    }
    assert(pinned === cache.pinnedBlocks, 'every reference is a request or a pin')
  }

  #checkFailure({ reason, code, message }: Finish): void {
    const explained = code === 'queue_timeout' || message === 'the fake device broke'
    assert(reason !== 'failed' || explained, `nothing fails by itself: ${message}`)
  }

  #checkEmbedding(wish: EngineRequest, finish: Finish): void {
    this.#checkFailure(finish)
    const heard = this.#embeddings.get(wish.id)
    assert((heard !== undefined) === (finish.reason === 'stop'), 'an embedding comes with its end')
    assert(this.#tokens.get(wish.id)!.length === 0, 'nothing is generated for an embedding')
    const same = heard === undefined || heard.join() === aloneEmbedding(wish, vocabularySize).join()
    assert(same, `${wish.id} gets the embedding that it would get alone`)
  }

  #checkEnd(): void {
    const { scheduler } = this.#engine
    assert(scheduler.roster.live === 0, 'nobody is left')
    scheduler.roster.audit()
    scheduler.cache.expirePins(this.#clock.nowMs() + 1000)
    assert(scheduler.pool.held === 0, 'nothing is held when nobody is left and all pins have expired')
    for (const [id, wish] of this.#accepted) {
      const finish = this.#finishes.get(id)
      assert(finish !== undefined, 'every accepted request ends')
      if (wish.pooling !== undefined) {
        this.#checkEmbedding(wish, finish)
        continue
      }
      const whole = alone({ ...wish, id }, vocabularySize)
      const heard = [...(wish.generated ?? []), ...this.#tokens.get(id)!]
      const expected =
        finish.reason === 'stop' || finish.reason === 'length' ? whole : whole.slice(0, heard.length)
      assert(heard.join() === expected.join(), `${id} gets the output that it would get alone`)
      this.#checkFailure(finish)
      const known = finish.promptTokens + (wish.generated?.length ?? 0)
      assert(finish.cachedTokens < known, 'one token at least is computed')
    }
    const { difference } = replay(this.#decisions)
    assert(difference === undefined, `the decision log replays: ${JSON.stringify(difference)}`)
  }
}
