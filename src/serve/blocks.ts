import { assert } from '../base/assert.ts'

/**
 * The cache memory as numbered blocks. Every block is in exactly one of three states:
 *
 * - free: its content is meaningless;
 * - cached: nobody uses it, but a prefix can still be found in it; evicted when blocks run out, the one
 *   that was given back longest ago first;
 * - held: used by as many holders (requests, pins) as its reference count says.
 *
 * free + cached + held = the number of blocks, always.
 */
export class BlockPool {
  readonly blockCount: number
  /** Called when a cached block is about to be reused, so that nobody finds it any more. */
  onEvict: (block: number) => void = () => {}

  readonly #references: Uint32Array
  readonly #findable: Uint8Array
  readonly #free: number[] = []
  // Cached blocks form a ring of links through a sentinel at index blockCount: next of the sentinel is the oldest.
  readonly #next: Int32Array
  readonly #previous: Int32Array
  #cached = 0

  constructor(blockCount: number) {
    this.blockCount = blockCount
    this.#references = new Uint32Array(blockCount)
    this.#findable = new Uint8Array(blockCount)
    this.#next = new Int32Array(blockCount + 1).fill(blockCount)
    this.#previous = new Int32Array(blockCount + 1).fill(blockCount)
    for (let block = blockCount - 1; block >= 0; block--) this.#free.push(block)
  }

  get free(): number {
    return this.#free.length
  }

  get cached(): number {
    return this.#cached
  }

  get held(): number {
    return this.blockCount - this.#free.length - this.#cached
  }

  /** Blocks that {@link take} can hand out now. */
  get available(): number {
    return this.#free.length + this.#cached
  }

  references(block: number): number {
    return this.#references[block]!
  }

  /** A block with one reference. The caller has checked {@link available}. */
  take(): number {
    let block = this.#free.pop()
    if (block === undefined) {
      block = this.#next[this.blockCount]!
      assert(block !== this.blockCount, 'a block is taken only while one is available')
      this.#unlink(block)
      this.#findable[block] = 0
      this.onEvict(block)
    }
    this.#references[block] = 1
    return block
  }

  /** One more holder of a block that is held or cached. */
  share(block: number): void {
    if (this.#references[block] === 0) {
      assert(this.#findable[block] === 1, 'a free block has no content to share')
      this.#unlink(block)
    }
    this.#references[block]!++
  }

  /** One holder less; the last one leaves the block cached when its content can be found, else free. */
  give(block: number): void {
    assert(this.#references[block]! > 0, 'a block is given back by a holder only')
    if (--this.#references[block]! > 0) return
    if (this.#findable[block] === 1) this.#linkNewest(block)
    else this.#free.push(block)
  }

  /** Declares that the content of a held block can be found from now on. */
  publish(block: number): void {
    assert(this.#references[block]! > 0, 'only a held block is published')
    this.#findable[block] = 1
  }

  /** Throws unless the three states add up and agree with the reference counts; O(blocks), for idle moments. */
  audit(): void {
    const free = new Set(this.#free)
    assert(free.size === this.#free.length, 'no block is free twice')
    let cached = 0
    for (let b = this.#next[this.blockCount]!; b !== this.blockCount; b = this.#next[b]!) {
      assert(this.#references[b] === 0 && !free.has(b), 'a cached block is neither held nor free')
      cached++
    }
    let held = 0
    for (let b = 0; b < this.blockCount; b++) {
      if (this.#references[b]! === 0) continue
      assert(!free.has(b), 'a held block is not free')
      held++
    }
    assert(cached === this.#cached && held === this.held, 'free, cached and held blocks add up')
  }

  #unlink(block: number): void {
    const next = this.#next[block]!
    const previous = this.#previous[block]!
    this.#next[previous] = next
    this.#previous[next] = previous
    this.#cached--
  }

  #linkNewest(block: number): void {
    const sentinel = this.blockCount
    const newest = this.#previous[sentinel]!
    this.#next[newest] = block
    this.#previous[block] = newest
    this.#next[block] = sentinel
    this.#previous[sentinel] = block
    this.#cached++
  }
}
