/** Characters of a prompt that are remembered together. Shorter prompts have no home. */
const blockCharacters = 256
/** Blocks of one prompt that are looked at; what lies behind them changes no choice. */
const blocksMax = 64
const placesMax = 65_536

/**
 * Which replica computed the beginning of a prompt last, so that its prefix cache is used again.
 *
 * A prompt is a chain of hashes, each of a block of text and of everything before it. For each hash the table
 * remembers one replica; the oldest entries go first.
 */
export class PrefixAffinity {
  readonly #places = new Map<number, string>()

  /** The hashes of a prompt's whole blocks. `scope`: prefixes are shared within one only. */
  static chain(scope: string, text: string): readonly number[] {
    const chain: number[] = []
    let hash = hashOn(0x811c9dc5, 0x1b873593, scope, 0, scope.length)
    const end = Math.min(text.length, blocksMax * blockCharacters)
    for (let from = 0; from + blockCharacters <= end; from += blockCharacters) {
      hash = hashOn(hash.low, hash.high, text, from, from + blockCharacters)
      // 53 bits: two prompts that meet by chance cost a cache miss, nothing more.
      chain.push((hash.high & 0x1fffff) * 4294967296 + (hash.low >>> 0))
    }
    return chain
  }

  /** Characters of the prompt that each replica has computed before, as far as the table knows. */
  known(chain: readonly number[]): ReadonlyMap<string, number> {
    const known = new Map<string, number>()
    for (const [index, hash] of chain.entries()) {
      const replica = this.#places.get(hash)
      if (replica !== undefined) known.set(replica, (index + 1) * blockCharacters)
    }
    return known
  }

  remember(chain: readonly number[], replica: string): void {
    for (const hash of chain) {
      this.#places.delete(hash)
      this.#places.set(hash, replica)
    }
    for (const hash of this.#places.keys()) {
      if (this.#places.size <= placesMax) break
      this.#places.delete(hash)
    }
  }
}

/** Two streams of FNV-1a with murmur's mixing between blocks. */
function hashOn(
  low: number,
  high: number,
  text: string,
  from: number,
  to: number,
): { low: number; high: number } {
  let a = low | 0
  let b = high | 0
  for (let at = from; at < to; at++) {
    const unit = text.charCodeAt(at)
    a = Math.imul(a ^ unit, 0x01000193)
    b = Math.imul((b << 5) ^ (b >>> 27) ^ unit, 0x9e3779b1)
  }
  return { low: Math.imul(a ^ (a >>> 15), 0x85ebca6b), high: Math.imul(b ^ (b >>> 13), 0xc2b2ae35) }
}
