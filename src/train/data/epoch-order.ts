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

  /** Memory of one pass's order. */
  get bytes(): number {
    return 4 * this.#count
  }

  /** The number at place `index`, counted over all passes. */
  at(index: number): number {
    const epoch = Math.floor(index / this.#count)
    if (this.#shuffled?.epoch !== epoch) {
      const order = this.#shuffled?.order ?? new Int32Array(this.#count)
      for (let i = 0; i < order.length; i++) order[i] = i
      shuffle(order, deriveSeed(this.#seed, `epoch ${epoch}`))
      this.#shuffled = { epoch, order }
    }
    return this.#shuffled.order[index % this.#count]!
  }
}
