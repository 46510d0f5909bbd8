import { hashTokens } from './hash.ts'

const gramLengths = [3, 2] as const
const acceptanceAtFirst = 0.6
const acceptanceMemory = 0.9
/** A request whose guesses do not pay tries one again after so many tokens. */
const tokensBetweenTrials = 48

/** Finds where the last few tokens occurred before, and guesses that what followed then follows now. */
class PromptLookup {
  // Per length: hash of n tokens -> index behind their last occurrence, the end of the text excepted.
  readonly #behind = gramLengths.map(() => new Map<number, number>())
  #indexed = 0

  guess(tokens: readonly number[], guessesMax: number): number[] {
    this.#index(tokens)
    for (const [i, length] of gramLengths.entries()) {
      if (tokens.length <= length) continue
      const from = tokens.length - length
      const behind = this.#behind[i]!.get(hashTokens(length, tokens, from, tokens.length))
      // A hash that misleads costs a wrong guess, nothing else.
      if (behind !== undefined) return tokens.slice(behind, behind + guessesMax)
    }
    return []
  }

  #index(tokens: readonly number[]): void {
    for (let end = this.#indexed + 1; end < tokens.length; end++) {
      for (const [i, length] of gramLengths.entries()) {
        if (end >= length) this.#behind[i]!.set(hashTokens(length, tokens, end - length, end), end)
      }
      this.#indexed = end
    }
  }
}

interface History {
  readonly lookup: PromptLookup
  /** Share of guesses that came true, lately. */
  acceptance: number
  tokensAtTrial: number
}

/**
 * Speculative decoding by prompt look-up: guesses cost a place in the batch and pay a token each when the
 * model, which computes them all at once, would have chosen the same. What is sampled decides; guesses
 * never change the output.
 */
export class Speculation<User extends { readonly tokens: readonly number[] } & object> {
  readonly #guessesMax: number
  readonly #histories = new WeakMap<User, History>()

  constructor(guessesMax: number) {
    this.#guessesMax = guessesMax
  }

  get enabled(): boolean {
    return this.#guessesMax > 0
  }

  /**
   * Guesses for the tokens behind those of `user`. `price` is what one more token in the iteration costs,
   * in tokens that the whole batch would have generated in that time: the g-th guess comes true with
   * probability acceptance^g, and pays while that exceeds the price.
   */
  guess(user: User, roomTokens: number, price: number): number[] {
    const history = this.#historyOf(user)
    let length = 0
    for (let chance = history.acceptance; chance > price && length < this.#guessesMax; length++) {
      chance *= history.acceptance
    }
    if (length === 0) {
      if (user.tokens.length - history.tokensAtTrial < tokensBetweenTrials) return []
      length = 1
    }
    const guesses = history.lookup.guess(user.tokens, Math.min(length, roomTokens))
    if (guesses.length > 0) history.tokensAtTrial = user.tokens.length
    return guesses
  }

  learn(user: User, guessed: number, accepted: number): void {
    const history = this.#historyOf(user)
    // The first wrong guess ends the trial; those behind it say nothing.
    const tried = Math.min(guessed, accepted + 1)
    for (let i = 0; i < tried; i++) {
      const truth = i < accepted ? 1 : 0
      history.acceptance = history.acceptance * acceptanceMemory + truth * (1 - acceptanceMemory)
    }
  }

  #historyOf(user: User): History {
    let history = this.#histories.get(user)
    if (history === undefined) {
      history = { lookup: new PromptLookup(), acceptance: acceptanceAtFirst, tokensAtTrial: 0 }
      this.#histories.set(user, history)
    }
    return history
  }
}
