/** Whether an answer is right, by rules that need no second model. */
import { z } from 'zod'
import { messageOf, UserError } from '../../base/errors.ts'
import { endsWithin } from './time-limit.ts'

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

/** What of a task or a reward says what is right. */
export type Rule =
  | { readonly kind: 'regex'; readonly pattern: string }
  | { readonly kind: 'json_schema'; readonly schema: Readonly<Record<string, unknown>> }
  | { readonly kind: 'exact' | 'choice' }

export interface Answered {
  readonly answer: string
  readonly expected: string
}

/** Whether each of these answers is right. Throws a UserError that names the field of a rule that takes too long. */
export type GradeAll = (answers: readonly Answered[]) => boolean[]

/** Throws a UserError that names the `field` of what cannot grade. */
export function graderOf(rule: Rule, field: string): GradeAll {
  if (rule.kind === 'regex') {
    const own = `${field}.pattern`
    return limited(matches(rule.pattern, own), own)
  }
  if (rule.kind === 'json_schema') {
    const own = `${field}.schema`
    return limited(accepts(rule.schema, own), own)
  }
  return (answers) => answers.map(({ answer, expected }) => exact(answer, expected))
}

/** For one answer. Patterns of people's own can take longer than the world lasts, those of a schema as well. */
const answerMsMax = 5_000
const shownCharacters = 100

/** All of them under one limit, which begins anew at the answer that it ran out at. */
export function limited(grade: Grader, field: string, limitMs = answerMsMax): GradeAll {
  return (answers) => {
    const right: boolean[] = []
    while (right.length < answers.length) {
      const before = right.length
      const areGraded = endsWithin(limitMs, () => {
        for (const { answer, expected } of answers.slice(before)) right.push(grade(answer, expected))
      })
      if (!areGraded && right.length === before) throw tooSlow(field, limitMs, answers[before]!.answer)
    }
    return right
  }
}

function tooSlow(field: string, limitMs: number, answer: string): UserError {
  const shown = JSON.stringify(answer.slice(0, shownCharacters))
  return new UserError(
    `The field ${field} did not come to an end within ${limitMs / 1000} seconds for one answer, which begins ${shown}.`,
    {
      failure: 'usage',
      fix: 'Write its pattern so that a text matches in one way only: (\\w+\\s?)* repeats a repetition, \\w+(\\s\\w+)* does not.',
    },
  )
}
