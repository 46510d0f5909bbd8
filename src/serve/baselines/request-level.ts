import { assert } from '../../base/assert.ts'
import type { ExecutorShape } from '../executor.ts'
import type { IterationPlan, Outcome, SequenceResult } from '../plan.ts'
import { endOf, Sequence } from '../sequence.ts'
import { Baseline, WholePlan } from './baseline.ts'

export interface RequestLevelOptions {
  /** Requests in a batch at most. */
  batchMax: number
  /** A batch that is not full forms when its oldest request has waited so long; 0 takes what is there. */
  timeoutMs?: number
  /** Requests that go through a pipeline together; a batch is cut into such pieces. */
  microBatchMax?: number
  /**
   * What happens to prompts of different lengths in one batch. `padded`: all are computed as if they were as
   * long as the longest. `shortest`: the first pass computes as much as the shortest has, what the longer ones
   * have more follows token by token, beside the tokens that others generate already (FasterTransformer up to
   * version 4, as its authors explain in issue 79 of its repository).
   */
  prompts?: 'padded' | 'shortest'
}

/** A piece of the batch that goes through the device together. */
interface MicroBatch {
  members: Sequence[]
  inFlight: boolean
}

/**
 * Scheduling by requests: a batch is formed, is padded to its longest, and runs until all of its requests
 * have finished. Those that finish early keep their place and are computed on; their clients hear of them
 * when the batch ends. Who comes late waits for the next batch.
 */
export class RequestLevelScheduler extends Baseline {
  readonly inFlightMax: number
  readonly #batchMax: number
  readonly #timeoutMs: number
  readonly #microBatchMax: number
  readonly #prompts: 'padded' | 'shortest'
  #batch: MicroBatch[] = []
  readonly #finished = new Set<Sequence>()
  readonly #inFlight = new Map<number, MicroBatch>()

  constructor(shape: ExecutorShape, options: RequestLevelOptions) {
    super(shape)
    this.#batchMax = options.batchMax
    this.#timeoutMs = options.timeoutMs ?? 0
    this.#microBatchMax = options.microBatchMax ?? options.batchMax
    this.#prompts = options.prompts ?? 'padded'
    assert(this.#batchMax >= 1 && this.#microBatchMax >= 1, 'a batch has room for a request')
    this.inFlightMax = Math.ceil(this.#batchMax / this.#microBatchMax)
  }

  override nextPlanMs(): number | undefined {
    if (this.#batch.length > 0) return undefined
    const oldest = this.roster.queue.peek()
    return oldest && oldest.arrivedMs + this.#timeoutMs
  }

  override plan(nowMs: number): WholePlan {
    const plan = new WholePlan(this.totals.iterations++, nowMs)
    if (this.#batch.every(({ members }) => members.every(({ state }) => state === 'ended')))
      this.#form(plan, nowMs)
    const piece = this.#next()
    if (piece === undefined) return plan
    piece.inFlight = true
    this.#inFlight.set(plan.iteration, piece)
    const members = piece.members.filter(({ state }) => state === 'running')
    if (members.every(({ computed }) => computed === 0)) this.#computePrompts(plan, members)
    else for (const member of members) plan.add(member, 1)
    return plan
  }

  override commit(plan: IterationPlan, results: readonly SequenceResult[], nowMs: number): Outcome[] {
    assert(results.length === plan.sequences.length, 'every planned sequence has a result')
    for (const sequence of this.roster.running) sequence.chargeTime(plan.iteration, nowMs)
    const outcomes: Outcome[] = []
    for (const [i, { sequence, start, count }] of plan.sequences.entries()) {
      if (sequence.state === 'ended') continue
      const result = results[i]!
      if ('failed' in result) {
        const finish = this.roster.end(sequence, 'failed', plan.iteration, nowMs)
        const why = { message: result.failed, code: 'numerics' } as const
        outcomes.push({ sequence, tokens: [], finish: { ...finish, ...why } })
        continue
      }
      this.#book(sequence, start + count, result.tokens)
    }
    this.#land(plan)
    if (this.#batch.every(({ members }) => this.#isDone(members)))
      outcomes.push(...this.#disband(plan, nowMs))
    return outcomes
  }

  override fail(plan: IterationPlan, message: string, nowMs: number): Outcome[] {
    const outcomes = super.fail(plan, message, nowMs)
    this.#land(plan)
    if (this.#batch.every(({ members }) => this.#isDone(members)))
      outcomes.push(...this.#disband(plan, nowMs))
    return outcomes
  }

  /** Takes the oldest requests whose cache fits when each is as long as the longest prompt and output together. */
  #form(plan: WholePlan, nowMs: number): void {
    const { queue } = this.roster
    this.#batch = []
    const oldest = queue.peek()
    if (oldest === undefined) return
    if (queue.size < this.#batchMax && nowMs < oldest.arrivedMs + this.#timeoutMs) return
    const members: Sequence[] = []
    let promptMost = 0
    let outputMost = 0
    for (let next: Sequence | undefined = oldest; next !== undefined; next = queue.peek()) {
      const prompt = Math.max(promptMost, next.promptTokens)
      const output = Math.max(outputMost, next.request.maxTokens)
      // One block more, so that padding and prompt never share one.
      const blocks = this.blocksFor(prompt + output) + 1
      const fits =
        members.length < this.#batchMax &&
        prompt + output <= this.shape.contextMax &&
        blocks * (members.length + 1) <= this.pool.available
      if (!fits && members.length > 0) break
      promptMost = prompt
      outputMost = output
      this.roster.join(next, nowMs)
      members.push(next)
      plan.joined.push(next)
      // Alone it may lack the block more, but then it has no padding.
      if (!fits) break
    }
    const each = Math.floor(this.pool.available / members.length)
    for (const member of members) {
      this.reserve(member, Math.min(each, this.blocksFor(promptMost + outputMost) + 1))
    }
    for (let from = 0; from < members.length; from += this.#microBatchMax) {
      this.#batch.push({ members: members.slice(from, from + this.#microBatchMax), inFlight: false })
    }
  }

  #computePrompts(plan: WholePlan, members: readonly Sequence[]): void {
    const lengths = members.map(({ promptTokens }) => promptTokens)
    if (this.#prompts === 'shortest') {
      const shortest = Math.min(...lengths)
      for (const member of members) plan.add(member, shortest)
      return
    }
    const longest = Math.max(...lengths)
    for (const member of members) {
      plan.add(member, member.promptTokens)
      const missing = longest - member.promptTokens
      if (missing > 0) plan.add(this.#padding(member, missing), missing)
    }
  }

  /** What padding computes: as many tokens that nobody reads, in blocks which the member needs only later. */
  #padding(member: Sequence, count: number): Sequence {
    const { request, tenant, arrival, arrivedMs } = member
    const filler = { ...request, id: `${request.id}/padding`, prompt: Array<number>(count).fill(0) }
    const padding = new Sequence(filler, tenant, arrival, arrivedMs, this.shape.blockTokens)
    padding.state = 'ended'
    padding.blocks = member.blocks.slice(this.blocksFor(member.promptTokens))
    return padding
  }

  #book(sequence: Sequence, computed: number, tokens: readonly number[]): void {
    const { promptTokens, request } = sequence
    this.totals.promptTokens += Math.max(0, Math.min(computed, promptTokens) - sequence.computed)
    sequence.computed = computed
    sequence.computedMost = computed
    sequence.tokens.push(...tokens)
    const last = tokens.at(-1)
    if (last === undefined || this.#finished.has(sequence)) return
    this.totals.generatedTokens += tokens.length
    if (endOf(request, last, sequence.generatedTokens) !== undefined) this.#finished.add(sequence)
  }

  #next(): MicroBatch | undefined {
    // Cancelling the last that was not done leaves nobody to end the batch but one iteration more.
    const leftover = this.#batch.every(({ members, inFlight }) => !inFlight && this.#isDone(members))
    return this.#batch.find(
      ({ inFlight, members }) =>
        !inFlight && members.some(({ state }) => state === 'running') && (leftover || !this.#isDone(members)),
    )
  }

  #isDone(members: readonly Sequence[]): boolean {
    return members.every((member) => member.state === 'ended' || this.#finished.has(member))
  }

  #land(plan: IterationPlan): void {
    const piece = this.#inFlight.get(plan.iteration)
    if (piece !== undefined) piece.inFlight = false
    this.#inFlight.delete(plan.iteration)
  }

  /** The batch has ended: now its clients hear of it. */
  #disband(plan: IterationPlan, nowMs: number): Outcome[] {
    const outcomes: Outcome[] = []
    for (const sequence of this.#batch.flatMap(({ members }) => members)) {
      if (sequence.state === 'ended') continue
      const { promptTokens, request } = sequence
      const ends = sequence.tokens.findIndex(
        (token, i) => i >= promptTokens && endOf(request, token, i - promptTokens + 1) !== undefined,
      )
      const last = sequence.tokens[ends]!
      const reason = endOf(request, last, ends - promptTokens + 1)!
      // What was computed behind the end only kept the place warm.
      sequence.tokens.length = ends + 1
      const finish = this.roster.end(sequence, reason, plan.iteration, nowMs)
      const tokens = sequence.tokens.slice(promptTokens, reason === 'stop' ? ends : ends + 1)
      outcomes.push({ sequence, tokens, finish: reason === 'stop' ? { ...finish, stopToken: last } : finish })
    }
    this.#batch = []
    this.#finished.clear()
    return outcomes
  }
}
