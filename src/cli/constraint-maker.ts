import type { Constraint, ConstraintMaker, Verdict } from '../constrain/constraint.ts'
import type { Compiled } from '../constrain/schema.ts'
import type { VocabularyTables } from '../constrain/vocabulary-tables.ts'
import { Thread } from './thread.ts'

export type ConstraintOrder =
  | { make: 'tables' }
  | { make: 'grammar'; constraint: Constraint }
  | { make: 'verdict'; constraint: Constraint }

export type ConstraintAnswer = VocabularyTables | Compiled | Verdict

/**
 * Makes grammars of schemas, and the tree of a vocabulary, on a thread of its own: that takes tenths of a second, in
 * which the engine goes on with what runs, and a server with its streams. The thread starts with the first order.
 */
export class ConstraintThread implements ConstraintMaker {
  readonly #thread: Thread<ConstraintOrder, ConstraintAnswer>

  constructor(modelPath: string) {
    this.#thread = new Thread('constraint-thread', modelPath, 'makes constraints')
  }

  async tables(): Promise<VocabularyTables> {
    return (await this.#thread.ask({ make: 'tables' })) as VocabularyTables
  }

  async compile(constraint: Constraint): Promise<Compiled> {
    return (await this.#thread.ask({ make: 'grammar', constraint })) as Compiled
  }

  /** Whether it can be kept, without what it becomes. */
  async check(constraint: Constraint): Promise<Verdict> {
    return (await this.#thread.ask({ make: 'verdict', constraint })) as Verdict
  }

  async close(): Promise<void> {
    await this.#thread.close()
  }
}
