import { assert } from '../base/assert.ts'
import { Automaton, type State } from './automaton.ts'
import type { Effort } from './mask-walk.ts'
import { compilePattern, type Pattern } from './pattern.ts'
import { Recent } from './recent.ts'
import { type Compiled, compileSchema } from './schema.ts'
import { type Mask, Vocabulary } from './vocabulary.ts'
import { tablesOf, type VocabularyTables } from './vocabulary-tables.ts'

/** What a text is held to: JSON that fits the schema (see {@link compileSchema}), any object without one; or a pattern. */
export type Constraint = { kind: 'json'; schema?: unknown } | { kind: 'text'; pattern: Pattern }

/** The grammar of a constraint's texts, or why it has none. */
export function compileConstraint(constraint: Constraint): Compiled {
  return constraint.kind === 'json' ? compileSchema(constraint.schema) : compilePattern(constraint.pattern)
}

/** Whether a constraint can be kept; what it becomes is not remembered. */
export type Verdict = { ok: true } | { ok: false; path: string; message: string }

/** The same as {@link compileConstraint} for those who only want to know, and as long. */
export function verdictOf(constraint: Constraint): Verdict {
  const compiled = compileConstraint(constraint)
  return compiled.ok ? { ok: true } : compiled
}

/** What each token writes (see token-bytes.ts); undefined for those that are never part of a text, as ending tokens. */
export type TokenTexts = readonly (Uint8Array | undefined)[]

/** Makes elsewhere what takes longer than others may be kept waiting. Its promises may reject: then it is made here. */
export interface ConstraintMaker {
  tables(): Promise<VocabularyTables>
  compile(constraint: Constraint): Promise<Compiled>
}

/** Schemas whose automata are remembered, least recently used first to go. */
const automataMax = 16
/** One or two milliseconds. */
const sliceUsual = 10_000

/** Holds texts of one vocabulary to constraints. The vocabulary is asked for when the first one comes. */
export class Constraints {
  readonly #textsOf: () => TokenTexts
  readonly #maker: ConstraintMaker | undefined
  /** How much is done for masks at a time, in the unit of an {@link Effort}, before others have their turn. */
  readonly slice: number
  readonly #automata = new Recent<Automaton | undefined>(automataMax)
  /** A constraint that is in use keeps its automaton, however many others came since. */
  readonly #inUse = new WeakMap<Constraint, { automaton: Automaton | undefined }>()
  #vocabulary: Vocabulary | undefined
  #coming: Promise<Vocabulary> | undefined

  /** Without `maker` everything is made at once, when it is asked for. */
  constructor(textsOf: () => TokenTexts, maker?: ConstraintMaker, slice = sliceUsual) {
    this.#textsOf = textsOf
    this.#maker = maker
    this.slice = slice
  }

  /** Makes elsewhere what {@link follow} needs; undefined where it has it. Rejects where the tokens' texts cannot be read. */
  prepare(constraint: Constraint): Promise<void> | undefined {
    const maker = this.#maker
    if (maker === undefined || this.#inUse.has(constraint)) return undefined
    const key = JSON.stringify(constraint)
    if (this.#isReady(key)) return undefined
    return this.#prepare(constraint, key, maker)
  }

  /**
   * Begins a text behind the tokens in `generated`; undefined where the constraint is none, where the vocabulary
   * has no token to begin with, or where those tokens break it.
   */
  follow(constraint: Constraint, generated: readonly number[] = []): TextUnderConstraint | undefined {
    const automaton = this.#automatonOf(constraint)
    if (automaton === undefined) return undefined
    this.#vocabulary ??= new Vocabulary(tablesOf(this.#textsOf()))
    const text = new TextUnderConstraint(automaton, this.#vocabulary)
    if (!text.mask().any) return undefined
    return generated.every((token) => text.advance(token)) ? text : undefined
  }

  /** Also what may come first is known: {@link follow} asks for it. */
  #isReady(key: string): boolean {
    if (this.#vocabulary === undefined || !this.#automata.has(key)) return false
    const automaton = this.#automata.get(key, () => undefined)
    return (
      automaton === undefined ||
      this.#vocabulary.maskWithin(automaton, automaton.start, { left: 0 }) !== undefined
    )
  }

  async #prepare(constraint: Constraint, key: string, maker: ConstraintMaker): Promise<void> {
    this.#coming ??= this.#read(maker)
    const compiling = this.#automata.has(key)
      ? undefined
      : maker.compile(constraint).catch(() => compileConstraint(constraint))
    this.#vocabulary ??= await this.#coming
    const compiled = await compiling
    const automaton = this.#automata.get(key, () => automatonOf(compiled ?? compileConstraint(constraint)))
    this.#inUse.set(constraint, { automaton })
    if (automaton === undefined) return
    // What may come first is asked for when the text begins.
    const { start } = automaton
    while (this.#vocabulary.maskWithin(automaton, start, { left: this.slice }) === undefined) await turn()
  }

  async #read(maker: ConstraintMaker): Promise<Vocabulary> {
    try {
      return new Vocabulary(await maker.tables().catch(() => tablesOf(this.#textsOf())))
    } catch (error) {
      // What cannot be read now may be read for the next request.
      this.#coming = undefined
      throw error
    }
  }

  #automatonOf(constraint: Constraint): Automaton | undefined {
    const used = this.#inUse.get(constraint)
    if (used !== undefined) return used.automaton
    const key = JSON.stringify(constraint)
    const automaton = this.#automata.get(key, () => automatonOf(compileConstraint(constraint)))
    this.#inUse.set(constraint, { automaton })
    return automaton
  }
}

/** Lets others have their turn, whatever came meanwhile. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

function automatonOf(compiled: Compiled): Automaton | undefined {
  return compiled.ok ? new Automaton(compiled.grammar) : undefined
}

/** One text as its tokens come. */
export class TextUnderConstraint {
  readonly #automaton: Automaton
  readonly #vocabulary: Vocabulary
  #state: State
  /** For the state. */
  #mask: Mask | undefined

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

  /** Does what it can for the {@link mask}; true once that is there. */
  prepareMask(effort: Effort): boolean {
    this.#mask ??= this.#vocabulary.maskWithin(this.#automaton, this.#state, effort)
    return this.#mask !== undefined
  }

  /** The tokens that may come next. */
  mask(): Mask {
    return (this.#mask ??= this.#vocabulary.maskOf(this.#automaton, this.#state))
  }

  /** False, and nothing has changed, when the token may not come next. */
  advance(token: number): boolean {
    const bytes = this.#vocabulary.bytesOf(token)
    if (bytes.length === 0) return false
    const state = this.#automaton.walk(this.#state, bytes)
    if (state === null) return false
    this.#state = state
    this.#mask = undefined
    return true
  }

  /** The same for a token that was chosen by the {@link mask}. */
  take(token: number): void {
    assert(this.advance(token), 'a constrained text goes on with a token that its constraint allows')
  }
}
