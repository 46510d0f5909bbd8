import type { BlockPool } from './blocks.ts'
import type { CostModel, IterationLoad } from './cost-model.ts'
import type { GoalKeeper, PromptAllowance } from './goals.ts'
import type { SchedulerOptions } from './options.ts'
import type { Draft, PlannedSequence, Proposals, Wish } from './plan.ts'
import type { PrefixCache } from './prefix-cache.ts'
import type { PrefixReuse } from './reuse.ts'
import type { Roster } from './roster.ts'
import type { Sequence } from './sequence.ts'
import type { Speculation } from './speculation.ts'

export interface PlannerParts {
  roster: Roster
  pool: BlockPool
  cache: PrefixCache<Sequence>
  reuse: PrefixReuse
  goals: GoalKeeper
  costs: CostModel
  speculation: Speculation<Sequence>
}

/** More prompts than these that cannot finish in an iteration do not join the batch: they would only wait in it. */
const unfinishedPromptsMax = 4
/** Of a token's share in the time of an iteration, before the cost model knows it. */
const tokenShareUntrusted = 1 / 64

/**
 * Fills a draft, in the order that makes the promises of the scheduler true: those who run, best first and
 * one token each at least; then newcomers; then what is left goes to long prompts and to guesses.
 */
export class Planner {
  readonly #parts: PlannerParts
  readonly #options: SchedulerOptions
  readonly #blockTokens: number

  constructor(parts: PlannerParts, options: SchedulerOptions, blockTokens: number) {
    this.#parts = parts
    this.#options = options
    this.#blockTokens = blockTokens
  }

  fill(draft: Draft, proposals: Proposals | undefined): void {
    const { roster, speculation } = this.#parts
    const madeWayFor = this.#makeWayForBetter(draft)
    const streams = this.#streams()
    draft.allowance = this.#allowance(streams, draft.plannedMs, proposals?.tookMs ?? 0)
    draft.budgetTokens = Math.min(this.#options.stepTokensMax, streams.tokens + draft.allowance.tokensFrom(0))
    draft.reservedTokens = streams.tokens
    // The set shrinks from its end while this walks, never before the place where it stands.
    for (let index = 0; index < roster.running.size; index++) {
      const sequence = roster.running.at(index)!
      if (sequence.streams) draft.reservedTokens--
      this.#pay(sequence, draft)
    }
    this.#admitWaiting(draft, madeWayFor)
    this.#topUp(draft)
    if (speculation.enabled) this.#guess(draft, proposals)
  }

  /** Who should be proposed how much, when one pass of the draft model over all of them takes `passMs`. */
  wishes(passMs: number): Wish[] {
    const { roster, speculation } = this.#parts
    if (!speculation.enabled) return []
    const streams = [...roster.running].filter(
      ({ streams, generatedTokens }) => streams && generatedTokens > 0,
    )
    const load = this.#streams()
    return streams.flatMap((sequence) => {
      const price = this.#price(sequence, load, passMs / streams.length) * load.tokens
      const left = sequence.request.maxTokens - sequence.generatedTokens - 1
      const length = Math.min(left, speculation.length(sequence, 'draft', price))
      return length > 0 ? [{ sequence, length }] : []
    })
  }

  #streams(): IterationLoad {
    let tokens = 0
    let context = 0
    for (const sequence of this.#parts.roster.running) {
      if (!sequence.streams) continue
      tokens++
      context += sequence.computed
    }
    return { tokens, context, sequences: tokens }
  }

  #allowance(streams: IterationLoad, nowMs: number, spentMs: number): PromptAllowance {
    const { queue, running, waitingTokens } = this.#parts.roster
    let promptTokensOwed = waitingTokens
    let arrivedMs = queue.peek()?.arrivedMs ?? Number.POSITIVE_INFINITY
    for (const sequence of running) {
      if (sequence.owed === 1) continue
      promptTokensOwed += sequence.owed
      arrivedMs = Math.min(arrivedMs, sequence.arrivedMs)
    }
    const oldestMs = arrivedMs === Number.POSITIVE_INFINITY ? undefined : nowMs - arrivedMs
    return this.#parts.goals.allowance({ streams, promptTokensOwed, oldestMs, spentMs })
  }

  /** Pays what it can of what `sequence` owes. */
  #pay(sequence: Sequence, draft: Draft): void {
    const { reuse } = this.#parts
    if (sequence.due === 0) return
    const isStream = sequence.streams
    if (!isStream) {
      draft.cachedTokens += reuse.adopt(sequence)
      if (reuse.followsAnother(sequence)) return
    }
    const chunk = this.#chunk(sequence, draft)
    if (chunk <= 0) return
    const start = sequence.computed
    const end = this.#reserve(sequence, start + chunk, draft)
    if (end <= start) {
      draft.stalled = true
      return
    }
    if (isStream) draft.addStream(sequence)
    else {
      reuse.announce(sequence)
      draft.add(sequence, end - start)
    }
  }

  #chunk(sequence: Sequence, draft: Draft): number {
    const { due } = sequence
    if (sequence.streams) return Math.min(1, draft.leftTokens)
    const left = draft.leftFrom(sequence.computed)
    const fair = due <= left ? due : this.#partOf(left, draft)
    // Only log-probabilities are read out row by row at a price; states are added up.
    if (!sequence.wantsPromptRows || sequence.request.pooling !== undefined) return fair
    return Math.min(fair, Math.max(0, sequence.promptRowsDone - sequence.computed) + draft.promptRowsLeft)
  }

  /**
   * What a prompt gets that cannot finish now: the oldest such prompt half of what is left, so that short
   * ones behind it are not kept waiting, and the others nothing; what nobody needs comes back to it.
   */
  #partOf(left: number, draft: Draft): number {
    return draft.unfinishedPrompts++ === 0 ? Math.ceil(left / 2) : 0
  }

  /** Finds blocks for the first `end` tokens of `sequence`; returns for how many there are. */
  #reserve(sequence: Sequence, end: number, draft: Draft): number {
    const { pool } = this.#parts
    while (sequence.blocks.length * this.#blockTokens < end) {
      const covered = sequence.blocks.length * this.#blockTokens
      // Others are preempted so that it can go on at all, not so that it can go faster.
      if (pool.available === 0 && (covered > sequence.computed || !this.#makeRoom(sequence, draft))) break
      sequence.blocks.push(pool.take())
    }
    return Math.min(end, sequence.blocks.length * this.#blockTokens)
  }

  /** Gets a block for `sequence` from those behind it; it waits, keeping its own, when it is the last. */
  #makeRoom(sequence: Sequence, draft: Draft): boolean {
    const { pool, roster, cache } = this.#parts
    while (pool.available === 0) {
      const victim = roster.running.victimFor(sequence)
      if (victim !== undefined) this.#preempt(victim, draft)
      // The first in the order must be able to go on, whatever was promised to nobody in particular.
      else if (roster.running.at(0) !== sequence || !cache.dropPin()) return false
    }
    return true
  }

  #preempt(victim: Sequence, draft: Draft): void {
    if (victim.streams && draft.reservedTokens > 0) draft.reservedTokens--
    this.#parts.roster.preempt(victim, draft.iteration, draft.plannedMs)
    draft.preempted.push(victim)
  }

  /** Preempts requests of lower classes for the next in the queue, where that is enough for it to join. */
  #makeWayForBetter(draft: Draft): Sequence | undefined {
    const { queue, running } = this.#parts.roster
    const newcomer = queue.peek()
    const last = running.last()
    if (newcomer === undefined || last === undefined || last.rank <= newcomer.effectiveClass) return undefined
    let gain = 0
    for (const sequence of running) {
      if (sequence.rank <= newcomer.effectiveClass) continue
      for (const block of sequence.blocks) if (this.#parts.pool.references(block) === 1) gain++
    }
    if (this.#blocksMissing(newcomer) > gain) return newcomer
    for (let victim = running.last(); victim !== undefined; victim = running.last()) {
      if (this.#fits(newcomer) || victim.rank <= newcomer.effectiveClass) break
      this.#preempt(victim, draft)
    }
    return newcomer
  }

  #admitWaiting(draft: Draft, madeWayFor: Sequence | undefined): void {
    const { roster, goals } = this.#parts
    let context = 0
    for (const sequence of roster.running) context += sequence.tokens.length
    while (draft.leftTokens > 0 && draft.unfinishedPrompts < unfinishedPromptsMax) {
      const sequence = roster.queue.peek()
      if (sequence === undefined) return
      // Admitting while preempting would hand the freed blocks to a newcomer, unless they were freed for it.
      const scarce = draft.preempted.length > 0 || draft.stalled
      if (scarce && sequence !== madeWayFor) return
      const { size } = roster.running
      const running = { tokens: size, context, sequences: size }
      if (!this.#fits(sequence) || !goals.admits(running, sequence.tokens.length)) return
      context += sequence.tokens.length
      this.#join(sequence, draft)
    }
  }

  #fits(sequence: Sequence): boolean {
    const { size } = this.#parts.roster.running
    // Alone it fits, or it would have been refused.
    if (size === 0) return true
    return size < this.#options.runningMax && this.#blocksMissing(sequence) <= 0
  }

  #blocksMissing(sequence: Sequence): number {
    const { cache, pool, reuse, roster } = this.#parts
    const found = cache.match(sequence, reuse.limit(sequence))
    const idle = found.filter((node) => pool.references(node.block) === 0).length
    const needed = Math.ceil((sequence.tokens.length + 1) / this.#blockTokens) - found.length
    // One block for each running request, or it would be preempted again at once.
    return needed + roster.running.size - (pool.available - idle)
  }

  #join(sequence: Sequence, draft: Draft): void {
    const { roster, reuse } = this.#parts
    const first = !sequence.started
    roster.join(sequence, draft.plannedMs)
    draft.joined.push(sequence)
    draft.cachedTokens += reuse.adopt(sequence)
    if (first) {
      // The prompt is charged at once, or a tenant would fill the batch before its counter moved.
      const found = sequence.computed + reuse.announcedBehind(sequence)
      roster.ledger.chargePrompt(sequence, Math.min(found, sequence.promptTokens))
    }
    this.#pay(sequence, draft)
  }

  /** Gives what is left of the budget to prompts that left room for others. */
  #topUp(draft: Draft): void {
    const { pool } = this.#parts
    for (const entry of draft.sequences) {
      if (draft.leftTokens <= 0) return
      const { sequence } = entry
      if (sequence.wantsPromptRows && sequence.request.pooling === undefined) continue
      const end = entry.start + entry.count
      const owed = sequence.computed + sequence.due - end
      const wanted = end + Math.min(owed, draft.leftFrom(end))
      while (sequence.blocks.length * this.#blockTokens < wanted && pool.available > 0) {
        sequence.blocks.push(pool.take())
      }
      const reached = Math.min(wanted, sequence.blocks.length * this.#blockTokens)
      if (reached > end) draft.grow(entry, reached - end)
    }
  }

  /** Guesses take what nobody else wanted: no preemption and no waiting is ever due to them. */
  #guess(draft: Draft, proposals: Proposals | undefined): void {
    const { pool, speculation } = this.#parts
    const streams = draft.sequences.reduce((sum, entry) => sum + entry.sampledRows, 0)
    const proposed = new Map(proposals?.guesses.map(({ id, tokens }) => [id, tokens]))
    const { load } = draft
    for (const entry of draft.sequences) {
      const { sequence } = entry
      if (entry.sampledRows !== 1 || sequence.generatedTokens === 0) continue
      const proposal = proposed.get(sequence.id) ?? []
      if (proposal.length > 0) speculation.tried(sequence, 'draft')
      const room = this.#guessRoom(entry, draft)
      if (room <= 0) continue
      const guesses =
        proposal.length > 0
          ? proposal.slice(0, room)
          : speculation.lookUp(sequence, room, this.#price(sequence, load, 0) * streams)
      if (guesses.length === 0) continue
      const end = entry.start + entry.count + guesses.length
      if (sequence.blocks.length * this.#blockTokens < end) sequence.blocks.push(pool.take())
      draft.guess(entry, guesses, proposal.length > 0 ? 'draft' : 'lookup')
    }
  }

  #guessRoom(entry: PlannedSequence, draft: Draft): number {
    const { pool, roster } = this.#parts
    const { sequence } = entry
    const spareBlocks = pool.available > roster.running.size ? 1 : 0
    const end = entry.start + entry.count
    return Math.min(
      draft.leftFrom(end),
      sequence.request.maxTokens - sequence.generatedTokens - 1,
      (sequence.blocks.length + spareBlocks) * this.#blockTokens - end,
    )
  }

  /** The share of an iteration's time that one more token takes, with what guessing it takes before. */
  #price(sequence: Sequence, load: IterationLoad, guessMs: number): number {
    const { costs } = this.#parts
    const iterationMs = costs.trusted ? costs.predictMs(load) : 0
    return iterationMs > 0 ? (costs.tokenMs(sequence.computed) + guessMs) / iterationMs : tokenShareUntrusted
  }
}
