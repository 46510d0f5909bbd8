/** What the thread runs that makes constraints ready for the engine, and tells a server which can be kept. */
import { workerData } from 'node:worker_threads'
import { compileConstraint, verdictOf } from '../constrain/constraint.ts'
import { buffersOf } from '../constrain/grammar.ts'
import { buffersOfTables, tablesOf } from '../constrain/vocabulary-tables.ts'
import type { ConstraintAnswer, ConstraintOrder } from './constraint-maker.ts'
import { answerOrders } from './thread.ts'
import { tokenTextsOf } from './token-texts.ts'

answerOrders((order: ConstraintOrder): { answer: ConstraintAnswer; transfer: ArrayBuffer[] } => {
  if (order.make === 'tables') {
    const tables = tablesOf(tokenTextsOf(workerData.modelPath))
    return { answer: tables, transfer: buffersOfTables(tables) }
  }
  if (order.make === 'verdict') return { answer: verdictOf(order.constraint), transfer: [] }
  const compiled = compileConstraint(order.constraint)
  return { answer: compiled, transfer: compiled.ok ? buffersOf(compiled.grammar) : [] }
})
