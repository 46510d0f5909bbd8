import { deriveSeed, shuffle } from '../../base/random.ts'

/** Numbers below `count` without end: every pass takes each once, in an order of its own. */
export class EpochOrder {
  readonly #count: number
  readonly #seed: number
  #shuffled: { epoch: number; order: Int32Array } | undefined

  constructor(count: number, seed: number) {
    this.#count = count
    this.#seed = seed
  }

  /** The number at place `index`, counted over all passes. */
  at(index: number): number {
    const epoch = Math.floor(index / this.#count)
    if (this.#shuffled?.epoch !== epoch) {
      const order = Int32Array.from({ length: this.#count }, (_, i) => i)
      shuffle(order, deriveSeed(this.#seed, `epoch ${epoch}`))
      this.#shuffled = { epoch, order }
    }
    return this.#shuffled.order[index % this.#count]!
  }
}
