/**
 * Which two neighbouring tokens become which one, and how early: a hash table of int32 quadruples
 * (left, right, rank, product) with open addressing. A Map with numeric keys takes 4x the time and memory.
 */
export class MergeTable {
  readonly #slots: Int32Array
  readonly #mask: number
  #size = 0

  /** Room for `capacity` merges. */
  constructor(capacity: number) {
    const slots = 2 ** Math.ceil(Math.log2(Math.max(8, capacity * 2)))
    this.#slots = new Int32Array(slots * 4).fill(-1)
    this.#mask = slots - 1
  }

  get size(): number {
    return this.#size
  }

  /** Adds a merge; a pair that is there already keeps the rank that was given last. */
  set(left: number, right: number, rank: number, product: number): void {
    const at = this.#place(left, right)
    if (this.#slots[at] === -1) this.#size++
    this.#slots[at] = left
    this.#slots[at + 1] = right
    this.#slots[at + 2] = rank
    this.#slots[at + 3] = product
  }

  /** A handle for `rankAt` and `productAt`, or -1: these two do not merge. */
  find(left: number, right: number): number {
    const at = this.#place(left, right)
    return this.#slots[at] === -1 ? -1 : at
  }

  /** Lower merges earlier. */
  rankAt(handle: number): number {
    return this.#slots[handle + 2]!
  }

  productAt(handle: number): number {
    return this.#slots[handle + 3]!
  }

  /** Where the pair lies, or the free place where it would. */
  #place(left: number, right: number): number {
    const slots = this.#slots
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    hash ^= hash >>> 15
    for (let index = hash & this.#mask; ; index = (index + 1) & this.#mask) {
      const at = index * 4
      if (slots[at] === -1 || (slots[at] === left && slots[at + 1] === right)) return at
    }
  }
}
