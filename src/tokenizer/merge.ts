import type { MergeTable } from './merge-table.ts'
import { NumberHeap } from './number-heap.ts'

/** Up to this many symbols, scanning for the best pair beats keeping a heap. */
const scannedSymbolsMax = 48
const noMerge = 0x7fffffff
const rankUnit = 2 ** 32

/**
 * Byte-pair merging of one word (Sennrich et al. 2016): as long as neighbours merge, the pair of the lowest
 * rank does, the leftmost of equals. Short words are scanned; long ones cost O(n log n).
 */
export class Merger {
  readonly #table: MergeTable
  #ranks = new Int32Array(64)
  #products = new Int32Array(64)

  constructor(table: MergeTable) {
    this.#table = table
  }

  /** Merges the first `count` of `symbols` in place; what remains is at the front. Returns how many remain. */
  merge(symbols: Int32Array, count: number): number {
    if (count < 2 || this.#table.size === 0) return count
    if (this.#ranks.length < count) {
      this.#ranks = new Int32Array(count * 2)
      this.#products = new Int32Array(count * 2)
    }
    return count <= scannedSymbolsMax ? this.#scan(symbols, count) : this.#drain(symbols, count)
  }

  #scan(symbols: Int32Array, count: number): number {
    const ranks = this.#ranks
    let left = count
    for (let i = 0; i + 1 < left; i++) this.#rank(i, symbols[i]!, symbols[i + 1]!)
    for (;;) {
      let best = -1
      let bestRank = noMerge
      for (let i = 0; i + 1 < left; i++) {
        if (ranks[i]! < bestRank) {
          bestRank = ranks[i]!
          best = i
        }
      }
      if (best < 0) return left
      symbols[best] = this.#products[best]!
      left--
      symbols.copyWithin(best + 1, best + 2, left + 1)
      ranks.copyWithin(best + 1, best + 2, left)
      this.#products.copyWithin(best + 1, best + 2, left)
      if (best > 0) this.#rank(best - 1, symbols[best - 1]!, symbols[best]!)
      if (best + 1 < left) this.#rank(best, symbols[best]!, symbols[best + 1]!)
    }
  }

  /** The same over a linked list with a heap of (rank, place); an entry that the list outgrew is skipped. */
  #drain(symbols: Int32Array, count: number): number {
    const ranks = this.#ranks
    const heap = new NumberHeap()
    const next = new Int32Array(count)
    const previous = new Int32Array(count)
    const enter = (at: number) => {
      const behind = next[at]!
      ranks[at] = noMerge
      if (behind < count && this.#rank(at, symbols[at]!, symbols[behind]!))
        heap.push(ranks[at]! * rankUnit + at)
    }
    for (let i = 0; i < count; i++) {
      next[i] = i + 1
      previous[i] = i - 1
    }
    for (let i = 0; i < count; i++) enter(i)
    while (heap.size > 0) {
      const entry = heap.pop()
      const rank = Math.floor(entry / rankUnit)
      const at = entry - rank * rankUnit
      if (ranks[at] !== rank) continue
      const gone = next[at]!
      symbols[at] = this.#products[at]!
      ranks[gone] = noMerge
      next[at] = next[gone]!
      if (next[at]! < count) previous[next[at]!] = at
      enter(at)
      if (previous[at]! >= 0) enter(previous[at]!)
    }
    let left = 0
    for (let at = 0; at < count; at = next[at]!) symbols[left++] = symbols[at]!
    return left
  }

  /** Notes at `at` what the pair that begins there becomes; false when it does not merge. */
  #rank(at: number, left: number, right: number): boolean {
    const handle = this.#table.find(left, right)
    this.#ranks[at] = handle < 0 ? noMerge : this.#table.rankAt(handle)
    if (handle >= 0) this.#products[at] = this.#table.productAt(handle)
    return handle >= 0
  }
}
