import { assert } from '../base/assert.ts'
import { Automaton, type State } from './automaton.ts'
import { compilePattern, type Pattern } from './pattern.ts'
import { type Compiled, compileSchema } from './schema.ts'
import { type Mask, Vocabulary } from './vocabulary.ts'

/** What a text is held to: JSON that fits the schema (see {@link compileSchema}), any object without one; or a pattern. */
export type Constraint = { kind: 'json'; schema?: unknown } | { kind: 'text'; pattern: Pattern }

/** The grammar of a constraint's texts, or why it has none. */
export function compileConstraint(constraint: Constraint): Compiled {
  return constraint.kind === 'json' ? compileSchema(constraint.schema) : compilePattern(constraint.pattern)
}

/** What each token writes (see token-bytes.ts); undefined for those that are never part of a text, as ending tokens. */
export type TokenTexts = readonly (Uint8Array | undefined)[]

/** Schemas whose automata are remembered, least recently used first to go. */
const automataMax = 16

/** Holds texts of one vocabulary to constraints. The vocabulary is asked for when the first one comes. */
export class Constraints {
  readonly #textsOf: () => TokenTexts
  readonly #automata = new Map<string, Automaton>()
  #vocabulary: Vocabulary | undefined

  constructor(textsOf: () => TokenTexts) {
    this.#textsOf = textsOf
  }

  /**
   * Begins a text behind the tokens in `generated`; undefined where the constraint is none, where the vocabulary
   * has no token to begin with, or where those tokens break it.
   */
  follow(constraint: Constraint, generated: readonly number[] = []): TextUnderConstraint | undefined {
    const automaton = this.#automatonOf(constraint)
    if (automaton === undefined) return undefined
    this.#vocabulary ??= new Vocabulary(this.#textsOf())
    const text = new TextUnderConstraint(automaton, this.#vocabulary)
    if (!text.mask().any) return undefined
    return generated.every((token) => text.advance(token)) ? text : undefined
  }

  #automatonOf(constraint: Constraint): Automaton | undefined {
    const key = JSON.stringify(constraint)
    const known = this.#automata.get(key)
    if (known !== undefined) {
      this.#automata.delete(key)
      this.#automata.set(key, known)
      return known
    }
    const compiled = compileConstraint(constraint)
    if (!compiled.ok) return undefined
    const automaton = new Automaton(compiled.grammar)
    if (this.#automata.size === automataMax) this.#automata.delete(this.#automata.keys().next().value!)
    this.#automata.set(key, automaton)
    return automaton
  }
}

/** One text as its tokens come. */
export class TextUnderConstraint {
  readonly #automaton: Automaton
  readonly #vocabulary: Vocabulary
  #state: State

  constructor(automaton: Automaton, vocabulary: Vocabulary) {
    this.#automaton = automaton
    this.#vocabulary = vocabulary
    this.#state = automaton.start
  }

  /** Whether the text may end here. */
  get mayEnd(): boolean {
    return this.#state.accepting
  }

  /** Whether it is at its end: nothing may follow. */
  get complete(): boolean {
    return !this.#state.open
  }

  /** The tokens that may come next. */
  mask(): Mask {
    return this.#vocabulary.maskOf(this.#automaton, this.#state)
  }

  /** False, and nothing has changed, when the token may not come next. */
  advance(token: number): boolean {
    const bytes = this.#vocabulary.bytes[token]
    if (bytes === undefined || bytes.length === 0) return false
    const state = this.#automaton.walk(this.#state, bytes)
    if (state !== null) this.#state = state
    return state !== null
  }

  /** The same for a token that was chosen by the {@link mask}. */
  take(token: number): void {
    assert(this.advance(token), 'a constrained text goes on with a token that its constraint allows')
  }
}
