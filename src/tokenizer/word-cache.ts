/** Longer words hardly come again and would fill the cache. */
const wordUnitsMax = 256

/**
 * Remembers what words encode to. Bounded: when the young generation is full it becomes the old one, and
 * what was not asked for since the last time is forgotten.
 */
export class WordCache {
  readonly #wordsMax: number
  #young = new Map<string, readonly number[]>()
  #old = new Map<string, readonly number[]>()

  /** Holds at most twice `wordsMax` words. */
  constructor(wordsMax = 32_768) {
    this.#wordsMax = wordsMax
  }

  get(word: string): readonly number[] | undefined {
    const young = this.#young.get(word)
    if (young !== undefined) return young
    const old = this.#old.get(word)
    if (old !== undefined) this.#put(word, old)
    return old
  }

  set(word: string, ids: readonly number[]): void {
    // A slice keeps the whole text that it was cut from alive; the copy does not.
    if (word.length <= wordUnitsMax) this.#put(Buffer.from(word, 'utf16le').toString('utf16le'), ids)
  }

  #put(word: string, ids: readonly number[]): void {
    if (this.#young.size >= this.#wordsMax) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(word, ids)
  }
}
