/** Share of the slots that are taken at most: probes stay short. */
const fillMax = 0.7

/** The first number that came with each hash, in 17 bytes each (open addressing, linear probing). */
export class HashTable {
  /** -1 where nothing is. */
  readonly #hashes: Float64Array
  readonly #values: Uint32Array

  /** Holds up to `count` hashes. Hashes are whole numbers below 2^53 whose low bits are spread evenly. */
  constructor(count: number) {
    const slots = Math.ceil(count / fillMax) + 1
    this.#hashes = new Float64Array(slots).fill(-1)
    this.#values = new Uint32Array(slots)
  }

  /** Remembers `value` unless the hash is there already; then returns the value that it came with. */
  add(hash: number, value: number): number | undefined {
    const slot = this.#slotOf(hash)
    if (this.#hashes[slot] === hash) return this.#values[slot]!
    this.#hashes[slot] = hash
    this.#values[slot] = value
    return undefined
  }

  get(hash: number): number | undefined {
    const slot = this.#slotOf(hash)
    return this.#hashes[slot] === hash ? this.#values[slot]! : undefined
  }

  /** Where the hash is, or the free slot where it would be. */
  #slotOf(hash: number): number {
    const slots = this.#hashes.length
    let slot = Math.floor(((hash >>> 0) / 4294967296) * slots)
    while (this.#hashes[slot] !== -1 && this.#hashes[slot] !== hash) slot = slot + 1 === slots ? 0 : slot + 1
    return slot
  }
}
