import type { PrefixCache } from './prefix-cache.ts'
import { precedes, type Sequence } from './sequence.ts'

/** Which part of a request's debt others have paid already, or are paying right now. */
export class PrefixReuse {
  readonly #cache: PrefixCache<Sequence>
  readonly #blockTokens: number
  readonly #enabled: boolean

  constructor(cache: PrefixCache<Sequence>, blockTokens: number, enabled: boolean) {
    this.#cache = cache
    this.#blockTokens = blockTokens
    this.#enabled = enabled
  }

  /** How many of its tokens may come from the cache: one at least is computed, and all whose logits are wanted. */
  limit(sequence: Sequence): number {
    if (!this.#enabled) return 0
    const { tokens, promptRowsDone } = sequence
    return Math.min(tokens.length - 1, sequence.wantsPromptRows ? promptRowsDone : tokens.length)
  }

  /** Takes over all that can be found for `sequence`; returns how many tokens nobody had found for it before. */
  adopt(sequence: Sequence): number {
    if (!this.#atPublishedEnd(sequence)) return 0
    const found = this.#cache.match(sequence, this.limit(sequence))
    if (found.length === 0) return 0
    this.#cache.adopt(sequence, found)
    sequence.computed = sequence.nodes.length * this.#blockTokens
    const fresh = Math.max(0, Math.min(sequence.computed, sequence.promptTokens) - sequence.computedMost)
    sequence.cachedTokens += fresh
    sequence.computedMost = Math.max(sequence.computedMost, sequence.computed)
    return fresh
  }

  /** True when an earlier request is about to publish the very block that `sequence` needs next. */
  followsAnother(sequence: Sequence): boolean {
    if (!this.#atPublishedEnd(sequence)) return false
    // Waiting follows the order of service, whose first never waits: so there are no circles.
    const producer = this.#cache.producerFor(sequence, this.limit(sequence))
    return producer !== undefined && precedes(producer, sequence)
  }

  announce(sequence: Sequence): void {
    if (this.#enabled) this.#cache.announce(sequence, sequence.tokens.length)
  }

  publish(sequence: Sequence): void {
    if (this.#enabled) this.#cache.publish(sequence, sequence.computed)
  }

  /** How many tokens behind the computed ones others have announced. */
  announcedBehind(sequence: Sequence): number {
    if (!this.#atPublishedEnd(sequence)) return 0
    return this.#cache.announcedBehind(sequence, sequence.computed, this.limit(sequence))
  }

  #atPublishedEnd(sequence: Sequence): boolean {
    const published = sequence.nodes.length
    return sequence.blocks.length === published && sequence.computed === published * this.#blockTokens
  }
}
