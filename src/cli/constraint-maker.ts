import type { Constraint, ConstraintMaker } from '../constrain/constraint.ts'
import type { Compiled } from '../constrain/schema.ts'
import type { VocabularyTables } from '../constrain/vocabulary-tables.ts'
import { Thread } from './thread.ts'

export type ConstraintOrder = { make: 'tables' } | { make: 'grammar'; constraint: Constraint }

/**
 * Makes grammars of schemas, and the tree of a vocabulary, on a thread of its own: that takes tenths of a second, in
 * which the engine goes on with what runs. The thread starts with the first order.
 */
export class ConstraintThread implements ConstraintMaker {
  readonly #thread: Thread<ConstraintOrder, VocabularyTables | Compiled>

  constructor(modelPath: string) {
    this.#thread = new Thread('constraint-thread', modelPath, 'makes constraints')
  }

  async tables(): Promise<VocabularyTables> {
    return (await this.#thread.ask({ make: 'tables' })) as VocabularyTables
  }

  async compile(constraint: Constraint): Promise<Compiled> {
    return (await this.#thread.ask({ make: 'grammar', constraint })) as Compiled
  }
}
