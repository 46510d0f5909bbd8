/** Whether an answer is right, by rules that need no second model. */
import { z } from 'zod'
import { messageOf, UserError } from '../../base/errors.ts'
import type { Task } from './fields.ts'

/** True for a right answer; `expected` is the record's own. */
export type Grader = (answer: string, expected: string) => boolean

export const graderKinds = ['exact', 'regex', 'json_schema'] as const

/** The same text but for white space around it. */
export const exact: Grader = (answer, expected) => answer.trim() === expected.trim()

/**
 * The pattern is found in the answer. With a group, what its first one holds must be what it holds in the expected answer, or
 * all of that where the pattern is not found there: records often hold the bare result. Any will do where nothing is expected.
 */
export function matches(pattern: string, field: string): Grader {
  let expression: RegExp
  try {
    expression = new RegExp(pattern, 'u')
  } catch (error) {
    throw new UserError(`The field ${field} is no regular expression: ${messageOf(error)}`, {
      failure: 'usage',
    })
  }
  return (answer, expected) => {
    const found = expression.exec(answer)
    if (found === null) return false
    if (found.length === 1 || expected.trim() === '') return true
    const wanted = expression.exec(expected)
    return found[1] === (wanted === null ? expected.trim() : wanted[1])
  }
}

/** The answer is JSON, also inside a fence, and the schema accepts it. */
export function accepts(schema: Readonly<Record<string, unknown>>, field: string): Grader {
  let validator: z.ZodType
  try {
    validator = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0])
  } catch (error) {
    throw new UserError(`The field ${field} is no JSON schema that can be checked: ${messageOf(error)}`, {
      failure: 'usage',
      fix: 'Use the keywords of JSON Schema 2020-12 without references to other files.',
    })
  }
  return (answer) => {
    const value = parsed(answer)
    return value !== undefined && validator.safeParse(value.json).success
  }
}

function parsed(text: string): { json: unknown } | undefined {
  const fenced = /^\s*```(?:json)?\s*([\s\S]*?)\s*```\s*$/.exec(text)
  try {
    return { json: JSON.parse(fenced?.[1] ?? text) }
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** What grades a task's answers; throws a UserError that names the `field` of what cannot. */
export function graderOf(task: Task, field: string): Grader {
  if (task.kind === 'regex') return matches(task.pattern, `${field}.pattern`)
  return task.kind === 'json_schema' ? accepts(task.schema, `${field}.schema`) : exact
}
