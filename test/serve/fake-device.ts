import { AssertionError, assert } from '../../src/base/assert.ts'
import type { ManualClock } from '../../src/base/clock.ts'
import { uniformAt } from '../../src/base/random.ts'
import type {
  Executor,
  ExecutorShape,
  IterationBatch,
  IterationOutput,
  SequenceWork,
} from '../../src/serve/executor.ts'
import { hashTokens } from '../../src/serve/hash.ts'
import type { EngineRequest } from '../../src/serve/request.ts'
import { Sampler, SamplingMemory } from '../../src/serve/sampler.ts'
import { endOf } from '../../src/serve/sequence.ts'
import { largest } from '../../src/serve/softmax.ts'

/** A text so far: a hash of all its tokens in order, and the last two of them. */
interface Past {
  hash: number
  last: number
  lastButOne: number
}

const usualWholeTextShare = 1.5

const nothing: Past = { hash: 7, last: -1, lastButOne: -1 }

function behind(past: Past, token: number): Past {
  return { hash: hashTokens(past.hash, [token], 0, 1), last: token, lastButOne: past.last }
}

/**
 * What the network of the fake device says: mostly a function of the last two tokens, so that texts repeat
 * and can be guessed, and partly of the whole text, so that a wrong past gives other tokens.
 */
function logitsOf(past: Past, vocabularySize: number, wholeTextShare: number): Float32Array {
  const near = nearLogits(past, vocabularySize)
  const logits = new Float32Array(vocabularySize)
  for (let v = 0; v < vocabularySize; v++) logits[v] = near[v]! + wholeTextShare * uniformAt(past.hash, v)
  return logits
}

const nearLogitsKnown = new Map<string, Float64Array>()

function nearLogits({ last, lastButOne }: Past, vocabularySize: number): Float64Array {
  const key = `${lastButOne} ${last} ${vocabularySize}`
  let logits = nearLogitsKnown.get(key)
  if (logits === undefined) {
    const near = hashTokens(lastButOne + 3, [last], 0, 1)
    logits = Float64Array.from({ length: vocabularySize }, (_, v) => 5 * uniformAt(near, v))
    nearLogitsKnown.set(key, logits)
  }
  return logits
}

/** The output of a request that has the device to itself, computed without engine, scheduler or cache. */
export function alone(
  request: EngineRequest,
  vocabularySize: number,
  wholeTextShare = usualWholeTextShare,
): number[] {
  const sampler = new Sampler(vocabularySize)
  const memory = new SamplingMemory(request, request.prompt)
  let past = request.prompt.reduce(behind, nothing)
  const tokens: number[] = []
  for (;;) {
    const row = logitsOf(past, vocabularySize, wholeTextShare)
    const token = sampler.choose({ logits: () => row, argmax: () => largest(row) }, memory)
    memory.add(token)
    const end = endOf(request, token, memory.count)
    if (end !== 'stop') tokens.push(token)
    if (end !== undefined) return tokens
    past = behind(past, token)
  }
}

/** The embedding of a request that has the device to itself. */
export function aloneEmbedding({ prompt, pooling }: EngineRequest, vocabularySize: number): number[] {
  const sum = new Array<number>(vocabularySize).fill(0)
  let past = nothing
  for (const [i, token] of prompt.entries()) {
    past = behind(past, token)
    if (pooling === 'last' && i + 1 < prompt.length) continue
    const row = logitsOf(past, vocabularySize, usualWholeTextShare)
    for (let v = 0; v < vocabularySize; v++) sum[v]! += row[v]!
  }
  const length = Math.sqrt(sum.reduce((squares, value) => squares + value * value, 0))
  return sum.map((value) => Math.fround(value / length))
}

/**
 * A device whose cache slots remember which text was behind them when they were written. Before it computes
 * a token it checks that the whole past of that token is what its block table shows.
 */
export class FakeDevice implements Executor {
  readonly shape: ExecutorShape
  readonly #clock: ManualClock
  readonly #slots: ({ before: number; past: Past; position: number } | undefined)[]
  /** Called in the middle of an iteration. */
  whileComputing: () => void = () => {}
  /** The smaller, the easier its texts are to guess. */
  wholeTextShare = usualWholeTextShare
  /** The next iteration breaks. */
  breaks = false
  /** The first promise of the batch that was broken. */
  violation: AssertionError | undefined
  iterations = 0
  tokens = 0

  constructor(shape: ExecutorShape, clock: ManualClock) {
    this.shape = shape
    this.#clock = clock
    this.#slots = new Array(shape.blockCount * shape.blockTokens)
  }

  async execute(batch: IterationBatch): Promise<IterationOutput> {
    try {
      return await this.#execute(batch)
    } catch (error) {
      // The engine takes what is thrown here for a broken device and goes on.
      if (error instanceof AssertionError) this.violation ??= error
      throw error
    }
  }

  async #execute(batch: IterationBatch): Promise<IterationOutput> {
    assert(batch.sequences.length > 0, 'no iteration is empty')
    const pasts = batch.sequences.map((work) => this.#readPast(work))
    this.#checkWrites(batch)
    const rows = batch.sequences.flatMap((work, i) => this.#compute(work, pasts[i]!))
    const tokens = batch.sequences.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const computeMs = 1 + tokens * 0.05
    this.#clock.advance(computeMs)
    this.iterations++
    this.tokens += tokens
    await Promise.resolve()
    this.whileComputing()
    if (this.breaks) {
      this.breaks = false
      throw new Error('the fake device broke')
    }
    return {
      logits: (row) => rows[row]!,
      // It has no head: what it says is its state too.
      states: (row) => rows[row]!,
      argmax: (row) => largest(rows[row]!),
      computeMs,
    }
  }

  dispose(): void {}

  #slot(work: SequenceWork, position: number): number {
    const block = work.blocks[Math.floor(position / this.shape.blockTokens)]
    assert(block !== undefined, `position ${position} has a block`)
    assert(block >= 0 && block < this.shape.blockCount, 'a block id is one of the device')
    return block * this.shape.blockTokens + (position % this.shape.blockTokens)
  }

  #readPast(work: SequenceWork): Past {
    let past = nothing
    for (let position = 0; position < work.start; position++) {
      const slot = this.#slots[this.#slot(work, position)]
      assert(slot !== undefined, `position ${position} was written before it is read`)
      assert(slot.position === position, 'a key is read at the position it was written for')
      assert(slot.before === past.hash, `position ${position} continues the text in front of it`)
      past = slot.past
    }
    return past
  }

  #checkWrites(batch: IterationBatch): void {
    const writers = new Set<number>()
    for (const work of batch.sequences) {
      assert(work.tokens.length > 0, 'a sequence in the batch computes something')
      assert(work.outputs <= work.tokens.length, 'logits are asked for computed tokens only')
      assert(new Set(work.blocks).size === work.blocks.length, 'a block table has no block twice')
      for (let i = 0; i < work.tokens.length; i++) {
        const slot = this.#slot(work, work.start + i)
        assert(!writers.has(slot), 'no slot is written by two sequences')
        writers.add(slot)
      }
    }
    for (const work of batch.sequences) {
      for (let position = 0; position < work.start; position++) {
        assert(!writers.has(this.#slot(work, position)), 'no slot is written while another reads it')
      }
    }
  }

  #compute(work: SequenceWork, pastBefore: Past): Float32Array[] {
    let past = pastBefore
    const rows: Float32Array[] = []
    for (const [i, token] of work.tokens.entries()) {
      const before = past.hash
      past = behind(past, token)
      const position = work.start + i
      this.#slots[this.#slot(work, position)] = { before, past, position }
      if (i >= work.tokens.length - work.outputs)
        rows.push(logitsOf(past, this.shape.vocabularySize, this.wholeTextShare))
    }
    return rows
  }
}
