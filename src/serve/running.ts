import { precedes, type Sequence } from './sequence.ts'

/**
 * The requests in the batch, in the order in which they are served. Preemption goes the other way: the
 * youngest of the lowest class first. One total order for both means that the first can always go on,
 * so there is no livelock.
 */
export class RunningSet implements Iterable<Sequence> {
  readonly #order: Sequence[] = []

  get size(): number {
    return this.#order.length
  }

  at(index: number): Sequence | undefined {
    return this.#order[index]
  }

  [Symbol.iterator](): Iterator<Sequence> {
    return this.#order[Symbol.iterator]()
  }

  insert(sequence: Sequence): void {
    let index = this.#order.length
    while (index > 0 && precedes(sequence, this.#order[index - 1]!)) index--
    this.#order.splice(index, 0, sequence)
  }

  remove(sequence: Sequence): void {
    const index = this.#order.lastIndexOf(sequence)
    if (index >= 0) this.#order.splice(index, 1)
  }

  /** Who gives way to `sequence` when blocks run out: the last behind it that holds any. */
  victimFor(sequence: Sequence): Sequence | undefined {
    for (let index = this.#order.length - 1; index >= 0; index--) {
      const candidate = this.#order[index]!
      if (!precedes(sequence, candidate)) return undefined
      if (candidate.blocks.length > 0) return candidate
    }
    return undefined
  }

  last(): Sequence | undefined {
    return this.#order.at(-1)
  }
}
