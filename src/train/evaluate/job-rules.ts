/** What the parts of `evaluate` demand of one another. */
import type { z } from 'zod'
import { refused } from '../job-refusals.ts'
import type { evaluateFields } from './fields.ts'
import { graderOf } from './graders.ts'

/** Throws UserErrors: what would only come out at the first evaluation is said before anything is computed. */
export function checkEvaluation({ tasks, best }: z.output<typeof evaluateFields>): void {
  const names = tasks.map(({ name }) => name)
  for (const [index, task] of tasks.entries()) {
    const field = `evaluate.tasks.${index}`
    if (names.indexOf(task.name) < index)
      throw refused(
        `${field}.name`,
        `is ${task.name}, as that of an earlier task; each needs a name of its own`,
      )
    if (task.name === 'loss')
      throw refused(`${field}.name`, 'is loss, which is what the held-out loss is called')
    graderOf(task, field)
  }
  if (best === 'loss' || names.includes(best)) return
  throw refused('evaluate.best', `names ${best}, which is no task; it takes ${['loss', ...names].join(', ')}`)
}
