/** A pair of neighbouring tokens and how often it stands in all texts. */
interface Pair {
  left: number
  right: number
  count: number
  /** Words that hold it, or held it once; a word may be listed twice. */
  words: number[]
}

/** A pair as it was when it entered the heap; its count may have changed since. */
interface Candidate {
  pair: Pair
  count: number
}

/** Token ids stay below this, so that a pair is one exact number. */
const idLimit = 2 ** 26

/**
 * The counting side of BPE training: words that are counted once, and the pairs in them, whose counts are
 * kept up to date merge by merge (so a merge costs what it changes, not a pass over the texts).
 */
export class MergeLearner {
  readonly #words: Int32Array[] = []
  readonly #counts: number[] = []
  readonly #pairs = new Map<number, Pair>()
  readonly #heap = new CandidateHeap()

  addWord(tokens: Int32Array, count: number): void {
    const index = this.#words.push(tokens) - 1
    this.#counts.push(count)
    for (let i = 0; i + 1 < tokens.length; i++) this.#change(tokens[i]!, tokens[i + 1]!, count, index)
  }

  /** To be called once, when all words are there. */
  start(): void {
    for (const pair of this.#pairs.values()) this.#heap.push({ pair, count: pair.count })
  }

  /** The pair that stands most often, of equals that with the lowest ids; undefined when none is left. */
  best(): { left: number; right: number } | undefined {
    for (;;) {
      const candidate = this.#heap.pop()
      if (candidate === undefined) return undefined
      const { pair, count } = candidate
      if (pair.count <= 0) continue
      if (pair.count === count) return pair
      this.#heap.push({ pair, count: pair.count })
    }
  }

  /** Makes `left right` one token `product` in every word. */
  merge(left: number, right: number, product: number): void {
    const merged = this.#pairs.get(left * idLimit + right)
    if (merged === undefined) return
    const risen = new Set<Pair>()
    for (const index of merged.words) this.#mergeWord(index, merged, product, risen)
    merged.count = 0
    this.#pairs.delete(left * idLimit + right)
    risen.delete(merged)
    for (const pair of risen) this.#heap.push({ pair, count: pair.count })
  }

  #mergeWord(index: number, { left, right }: Pair, product: number, risen: Set<Pair>): void {
    const word = this.#words[index]!
    const count = this.#counts[index]!
    let kept = 0
    for (let i = 0; i < word.length; i++) {
      if (word[i] !== left || word[i + 1] !== right) {
        word[kept++] = word[i]!
        continue
      }
      if (kept > 0) {
        this.#change(word[kept - 1]!, left, -count, index)
        risen.add(this.#change(word[kept - 1]!, product, count, index))
      }
      if (i + 2 < word.length) {
        this.#change(right, word[i + 2]!, -count, index)
        risen.add(this.#change(product, word[i + 2]!, count, index))
      }
      word[kept++] = product
      i++
    }
    this.#words[index] = word.subarray(0, kept)
  }

  #change(left: number, right: number, change: number, word: number): Pair {
    const key = left * idLimit + right
    let pair = this.#pairs.get(key)
    if (pair === undefined) {
      pair = { left, right, count: 0, words: [] }
      this.#pairs.set(key, pair)
    }
    pair.count += change
    if (change > 0 && pair.words.at(-1) !== word) pair.words.push(word)
    return pair
  }
}

/** The highest count first, then the lowest ids. */
class CandidateHeap {
  readonly #items: Candidate[] = []

  push(candidate: Candidate): void {
    const items = this.#items
    let at = items.push(candidate) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(candidate, items[parent]!)) break
      items[at] = items[parent]!
      at = parent
    }
    items[at] = candidate
  }

  pop(): Candidate | undefined {
    const items = this.#items
    const first = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return first
    let at = 0
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child++
      if (!before(items[child]!, last)) break
      items[at] = items[child]!
      at = child
    }
    items[at] = last
    return first
  }
}

function before(a: Candidate, b: Candidate): boolean {
  if (a.count !== b.count) return a.count > b.count
  return a.pair.left !== b.pair.left ? a.pair.left < b.pair.left : a.pair.right < b.pair.right
}
