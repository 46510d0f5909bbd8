/**
 * Speculative decoding with a small model that runs ahead of the large one, greedily (Leviathan et al. 2023;
 * here the large model's own choice decides, so greedy and seeded sampling are both left as they are).
 *
 * The draft model keeps its keys and values under the same block ids as the large one, in memory of its own.
 * Nobody tells it what happens to blocks: it remembers which text it wrote into each, and computes again what
 * does not fit. A mistake here costs wrong guesses, never wrong output.
 */
import { assert } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { Executor, SequenceWork } from './executor.ts'
import type { Proposals, Wish } from './plan.ts'
import type { Sequence } from './sequence.ts'

/** Says what might follow, before an iteration is planned. */
export interface Proposer {
  /** Milliseconds that one more token takes for all that are asked about at once. */
  readonly passMs: number
  /** Guesses for some of the wishes, at most as long as wished. A throw turns speculation off. */
  propose(wishes: readonly Wish[]): Promise<Proposals['guesses']>
}

/** Known tokens that the draft model computes at most before one iteration. */
const catchUpTokensMax = 256
const passMemory = 0.9

/** What the draft model wrote into one block: the text in front of it, as a hash, and the tokens. */
interface Content {
  before: number
  tokens: number[]
}

interface Run {
  sequence: Sequence
  length: number
  blocks: readonly number[]
  /** Position of the first token of `feed`. */
  start: number
  feed: readonly number[]
  /** Whether a guess follows from `feed`, or it ends within the known text. */
  guesses: number[] | undefined
}

export class DraftModel implements Proposer {
  readonly #executor: Executor
  readonly #clock: Clock
  readonly #contents: (Content | undefined)[]
  /** Blocks from this one on belong to no request: guesses beyond a request's own blocks go there. */
  readonly #scratchFirst: number
  readonly #scratchBlocks: number
  #passMs = 0

  /** The executor has the large model's blocks and `scratchBlocks` for each request in the batch behind them. */
  constructor(executor: Executor, blockCount: number, scratchBlocks: number, clock: Clock) {
    this.#executor = executor
    this.#clock = clock
    this.#scratchFirst = blockCount
    this.#scratchBlocks = scratchBlocks
    this.#contents = new Array(blockCount)
  }

  /** Blocks that a request's guesses may reach into beyond its own. */
  static scratchBlocks(guessesMax: number, blockTokens: number): number {
    return Math.ceil(guessesMax / blockTokens) + 1
  }

  get passMs(): number {
    return this.#passMs
  }

  async propose(wishes: readonly Wish[]): Promise<Proposals['guesses']> {
    const runs = this.#start(wishes)
    let going = runs
    while (going.length > 0) {
      await this.#pass(going)
      going = going.filter(({ guesses, length }) => guesses !== undefined && guesses.length < length)
      for (const run of going) {
        run.start += run.feed.length
        run.feed = [run.guesses!.at(-1)!]
      }
    }
    return runs.flatMap(({ sequence: { id }, guesses }) => (guesses ? [{ id, tokens: guesses }] : []))
  }

  #start(wishes: readonly Wish[]): Run[] {
    const { contextMax, blockTokens } = this.#executor.shape
    const written = new Set<number>()
    let left = catchUpTokensMax
    return wishes.flatMap(({ sequence, length: wished }, index): Run[] => {
      const { tokens } = sequence
      const length = Math.min(wished, contextMax - tokens.length)
      const start = this.#reach(sequence)
      const end = Math.min(tokens.length, start + left)
      if (length <= 0 || end <= start) return []
      const blocks = [...sequence.blocks, ...this.#scratch(index)]
      const touched = blocks.slice(Math.floor(start / blockTokens), Math.ceil(end / blockTokens))
      // Somebody with the same text writes it just now: next time it is there.
      if (touched.some((block) => written.has(block))) return []
      for (const block of touched) written.add(block)
      if (end - start > 1) left -= end - start
      const guesses = end === tokens.length ? [] : undefined
      return [{ sequence, length, blocks, start, feed: tokens.slice(start, end), guesses }]
    })
  }

  #scratch(index: number): number[] {
    const first = this.#scratchFirst + index * this.#scratchBlocks
    assert(
      first + this.#scratchBlocks <= this.#executor.shape.blockCount,
      'everybody who runs has scratch blocks',
    )
    return Array.from({ length: this.#scratchBlocks }, (_, i) => first + i)
  }

  async #pass(runs: readonly Run[]): Promise<void> {
    const sequences = runs.map(({ blocks, start, feed, guesses }): SequenceWork => {
      return { blocks, start, tokens: feed, outputs: guesses === undefined ? 0 : 1 }
    })
    const startedMs = this.#clock.nowMs()
    const output = await this.#executor.execute({ sequences })
    const tookMs = this.#clock.nowMs() - startedMs
    if (sequences.every(({ tokens }) => tokens.length === 1)) this.#learnPass(tookMs)
    let row = 0
    for (const run of runs) {
      this.#remember(run)
      // Where no logit is a number any guess does: the model itself decides.
      if (run.guesses !== undefined) run.guesses.push(Math.max(0, output.argmax(row++)))
    }
  }

  #learnPass(ms: number): void {
    this.#passMs = this.#passMs === 0 ? ms : this.#passMs * passMemory + ms * (1 - passMemory)
  }

  /** How many tokens at the head of `sequence` have their keys and values here; its last one is always computed. */
  #reach(sequence: Sequence): number {
    const { blocks, tokens } = sequence
    const { blockTokens } = this.#executor.shape
    let reach = 0
    for (const [index, block] of blocks.entries()) {
      const content = this.#contents[block]
      if (content === undefined || content.before !== hashBefore(sequence, index)) break
      let same = 0
      while (same < content.tokens.length && content.tokens[same] === tokens[reach + same]) same++
      reach += same
      if (same < blockTokens) break
    }
    return Math.min(reach, tokens.length - 1)
  }

  #remember({ sequence, blocks, start, feed }: Run): void {
    const { blockTokens } = this.#executor.shape
    for (const [i, token] of feed.entries()) {
      const index = Math.floor((start + i) / blockTokens)
      const offset = (start + i) % blockTokens
      const block = blocks[index]!
      if (block >= this.#scratchFirst) return
      if (offset === 0) {
        // What stands in front of it may be a guess: then nobody will look for it.
        const known = index * blockTokens <= sequence.tokens.length
        this.#contents[block] = known ? { before: hashBefore(sequence, index), tokens: [] } : undefined
      }
      const content = this.#contents[block]
      if (content === undefined) continue
      content.tokens.length = offset
      content.tokens.push(token)
    }
  }
}

function hashBefore(sequence: Sequence, index: number): number {
  return index === 0 ? 0 : sequence.blockHash(index - 1)
}
