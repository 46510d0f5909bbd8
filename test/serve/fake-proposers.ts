import type { Random } from '../../src/base/random.ts'
import type { Proposer } from '../../src/serve/draft-model.ts'
import type { Proposals, Wish } from '../../src/serve/plan.ts'

/** Proposes what `tokenOf` says, and counts. */
export class FakeProposer implements Proposer {
  passMs = 0
  asked = 0
  readonly #tokenOf: (wish: Wish, index: number) => number

  constructor(tokenOf: (wish: Wish, index: number) => number) {
    this.#tokenOf = tokenOf
  }

  async propose(wishes: readonly Wish[]): Promise<Proposals['guesses']> {
    this.asked += wishes.length
    await Promise.resolve()
    return wishes.map((wish) => ({
      id: wish.sequence.id,
      tokens: Array.from({ length: wish.length }, (_, i) => this.#tokenOf(wish, i)),
    }))
  }
}

/** Leaves some out, is wrong at times, and breaks in the end. */
export class FlakyProposer extends FakeProposer {
  readonly #random: Random

  constructor(random: Random, tokenOf: (wish: Wish, index: number) => number) {
    super((wish, index) => (random.uniform() < 0.3 ? 2 + random.integer(20) : tokenOf(wish, index)))
    this.#random = random
  }

  override async propose(wishes: readonly Wish[]): Promise<Proposals['guesses']> {
    if (this.#random.uniform() < 0.02) throw new Error('the draft broke')
    return (await super.propose(wishes)).filter(() => this.#random.uniform() < 0.8)
  }
}
