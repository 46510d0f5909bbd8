/** What the thread runs that makes constraints ready for the engine. */
import { workerData } from 'node:worker_threads'
import { compileConstraint } from '../constrain/constraint.ts'
import { buffersOf } from '../constrain/grammar.ts'
import type { Compiled } from '../constrain/schema.ts'
import { buffersOfTables, tablesOf, type VocabularyTables } from '../constrain/vocabulary-tables.ts'
import type { ConstraintOrder } from './constraint-maker.ts'
import { answerOrders } from './thread.ts'
import { tokenTextsOf } from './token-texts.ts'

answerOrders((order: ConstraintOrder): { answer: VocabularyTables | Compiled; transfer: ArrayBuffer[] } => {
  if (order.make === 'tables') {
    const tables = tablesOf(tokenTextsOf(workerData.modelPath))
    return { answer: tables, transfer: buffersOfTables(tables) }
  }
  const compiled = compileConstraint(order.constraint)
  return { answer: compiled, transfer: compiled.ok ? buffersOf(compiled.grammar) : [] }
})
