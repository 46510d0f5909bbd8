import { hashTokens } from './hash.ts'

const gramLengths = [3, 2] as const
const acceptanceAtFirst = 0.6
const acceptanceMemory = 0.9
const draftMemory = 0.99
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

/** Where guesses come from: the request's own text, or a small model that runs ahead (draft-model.ts). */
export type GuessSource = 'lookup' | 'draft'

/** How the guesses of one source did for one request. */
interface Score {
  /** Share of guesses that came true, lately. */
  acceptance: number
  tokensAtTrial: number
}

interface History {
  readonly text: PromptLookup
  readonly lookup: Score
  readonly draft: Score
}

/**
 * Speculative decoding: guesses cost a place in the batch and pay a token each when the model, which computes
 * them all at once, would have chosen the same. What is sampled decides; guesses never change the output.
 */
export class Speculation<User extends { readonly tokens: readonly number[] } & object> {
  readonly #guessesMax: number
  /** Over all requests: what a new one may expect of the draft model. */
  #draftAcceptance = acceptanceAtFirst
  readonly #histories = new WeakMap<User, History>()

  constructor(guessesMax: number) {
    this.#guessesMax = guessesMax
  }

  get enabled(): boolean {
    return this.#guessesMax > 0
  }

  /**
   * How many tokens behind those of `user` are worth guessing. `price` is what one more guess costs, in tokens
   * that the whole batch would have generated in that time: the g-th guess comes true with probability
   * acceptance^g, and pays while that exceeds the price.
   */
  length(user: User, source: GuessSource, price: number): number {
    const { acceptance, tokensAtTrial } = this.#historyOf(user)[source]
    let length = 0
    for (let chance = acceptance; chance > price && length < this.#guessesMax; length++) chance *= acceptance
    if (length > 0) return length
    return user.tokens.length - tokensAtTrial >= tokensBetweenTrials ? 1 : 0
  }

  /** Guesses by looking the last tokens up in the text so far. */
  lookUp(user: User, roomTokens: number, price: number): number[] {
    const length = Math.min(roomTokens, this.length(user, 'lookup', price))
    if (length <= 0) return []
    const guesses = this.#historyOf(user).text.guess(user.tokens, length)
    if (guesses.length > 0) this.tried(user, 'lookup')
    return guesses
  }

  /** Notes that there were guesses, so that the next trial of a source that does not pay is a while away. */
  tried(user: User, source: GuessSource): void {
    this.#historyOf(user)[source].tokensAtTrial = user.tokens.length
  }

  learn(user: User, source: GuessSource, guessed: number, accepted: number): void {
    const score = this.#historyOf(user)[source]
    // The first wrong guess ends the trial; those behind it say nothing.
    const tried = Math.min(guessed, accepted + 1)
    for (let i = 0; i < tried; i++) {
      const truth = i < accepted ? 1 : 0
      score.acceptance += (truth - score.acceptance) * (1 - acceptanceMemory)
      if (source === 'draft') this.#draftAcceptance += (truth - this.#draftAcceptance) * (1 - draftMemory)
    }
  }

  #historyOf(user: User): History {
    let history = this.#histories.get(user)
    if (history === undefined) {
      history = {
        text: new PromptLookup(),
        lookup: { acceptance: acceptanceAtFirst, tokensAtTrial: 0 },
        draft: { acceptance: this.#draftAcceptance, tokensAtTrial: user.tokens.length },
      }
      this.#histories.set(user, history)
    }
    return history
  }
}
