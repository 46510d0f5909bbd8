import { runInNewContext } from 'node:vm'
import { z } from 'zod'
import type { Expectation } from '../../api/control/deployments.ts'
import { messageOf } from '../../base/errors.ts'

/** A pattern that is still at it after so long counts as wrong: some never end. */
const patternMs = 200
/** Of an answer, what is looked at. */
const answerCharactersMax = 100_000

export type Grade = { right: true } | { right: false; why: string }

/** Judges the text of an answer. */
export function grade(expect: Expectation, given: string): Grade {
  const answer = given.slice(0, answerCharactersMax)
  if ('exact' in expect) {
    return answer.trim() === expect.exact.trim() ? right : wrong(`it is not '${shown(expect.exact)}'`)
  }
  if ('regex' in expect) {
    const found = matches(expect.regex, answer)
    return found === true
      ? right
      : wrong(found === false ? `it does not match ${shown(expect.regex)}` : found)
  }
  return fitsSchema(expect.jsonSchema, answer)
}

/** What is wrong with a grader itself; undefined when nothing is. */
export function faultOfExpectation(expect: Expectation): string | undefined {
  try {
    if ('regex' in expect) new RegExp(expect.regex, 'u')
    if ('jsonSchema' in expect) z.fromJSONSchema(expect.jsonSchema as z.core.JSONSchema.JSONSchema)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}

const right: Grade = { right: true }
const wrong = (why: string): Grade => ({ right: false, why })

/** In a context of its own, which can be interrupted, unlike a pattern that runs here. */
function matches(pattern: string, text: string): boolean | string {
  try {
    return runInNewContext(
      'new RegExp(pattern, "u").test(text)',
      { pattern, text },
      { timeout: patternMs },
    ) as boolean
  } catch (error) {
    return `the pattern cannot be applied: ${messageOf(error)}`
  }
}

function fitsSchema(schema: Readonly<Record<string, unknown>>, text: string): Grade {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    return wrong('it is not JSON')
  }
  const parsed = z.fromJSONSchema(schema as z.core.JSONSchema.JSONSchema).safeParse(value)
  if (parsed.success) return right
  const [issue] = parsed.error.issues
  return wrong(`${issue?.path.join('.') || 'the value'}: ${issue?.message}`)
}

function shown(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}
