import type { IterationBatch, SequenceWork } from './executor.ts'
import type { IterationPlan, PlannedSequence } from './plan.ts'

/** The plan in the terms of the device: token ids, positions and blocks. */
export function batchOf(plan: IterationPlan): IterationBatch {
  return { sequences: plan.sequences.map(workOf) }
}

function workOf({ sequence, start, count, guesses, outputs }: PlannedSequence): SequenceWork {
  const known = sequence.tokens.slice(start, start + count - guesses.length)
  const tokens = guesses.length === 0 ? known : [...known, ...guesses]
  const { adapter, pooling } = sequence.request
  return {
    ...{ blocks: sequence.blocks, start, tokens, outputs },
    ...(adapter !== undefined && { adapter }),
    ...(pooling !== undefined && { states: true }),
  }
}
