import type { z } from 'zod'
import { unsupportedCode } from './fields.ts'

/** The first thing wrong with a body, as a client is told of it. */
export interface BodyIssue {
  /** The field, as a path: `messages.0.content`; undefined for the body as a whole. */
  param: string | undefined
  message: string
  code: 'invalid_value' | 'unknown_parameter' | typeof unsupportedCode
}

type Issue = z.core.$ZodIssue

export function firstIssue(error: z.ZodError): BodyIssue {
  const { issue, path } = innermost(error.issues[0]!, [])
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    return { param: [...path, key].join('.'), message: 'Unknown field.', code: 'unknown_parameter' }
  }
  const unsupported = issue.code === 'custom' && issue.params?.code === unsupportedCode
  return {
    param: path.length === 0 ? undefined : path.join('.'),
    message: issue.message,
    code: unsupported ? unsupportedCode : 'invalid_value',
  }
}

/** A union fails once per alternative; the one that got furthest into the value is the one that was meant. */
function innermost(issue: Issue, before: readonly PropertyKey[]): { issue: Issue; path: PropertyKey[] } {
  const path = [...before, ...issue.path]
  if (issue.code !== 'invalid_union') return { issue, path }
  const candidates = issue.errors
    .flatMap((issues) => issues.slice(0, 1))
    .map((inner) => innermost(inner, path))
  const furthest = candidates.reduce<{ issue: Issue; path: PropertyKey[] } | undefined>(
    (best, candidate) => (candidate.path.length > (best?.path.length ?? path.length) ? candidate : best),
    undefined,
  )
  return furthest ?? { issue, path }
}
