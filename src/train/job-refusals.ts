/** What is wrong with a job file, in the words of its fields. */
import { z } from 'zod'
import { UserError } from '../base/errors.ts'
import { nearest } from '../base/nearest.ts'

export function refused(field: string, why: string): UserError {
  return new UserError(`The field ${field} ${why}.`, { failure: 'usage' })
}

/** A name that is none is told first: it may be what was meant by a field that is missing. */
export function jobRefusal(error: z.ZodError, file: z.ZodType): UserError {
  const issues = error.issues.map((issue) => deepest(issue))
  const issue = issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]!
  const field = issue.path.join('.')
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    const names = fieldNames(z.toJSONSchema(file, { unrepresentable: 'any', io: 'input' }))
    const meant = nearest(key, names)
    const hint = meant === undefined ? '' : `; did you mean ${meant}?`
    return refused([field, key].filter(Boolean).join('.'), `is not a field of a training job${hint}`)
  }
  if (issue.code === 'invalid_type' && issue.message.endsWith('received undefined'))
    return refused(field || 'job', 'is missing')
  return refused(field || 'job', `is not right: ${issue.message}`)
}

/** Of the alternatives of a union, the one that got furthest says most about the mistake. */
function deepest(issue: z.core.$ZodIssue, prefix: readonly PropertyKey[] = []): z.core.$ZodIssue {
  const path = [...prefix, ...issue.path]
  if (issue.code !== 'invalid_union') return { ...issue, path }
  const inner = issue.errors.flatMap((alternative) =>
    alternative.slice(0, 1).map((one) => deepest(one, path)),
  )
  const best = inner.sort((a, b) => b.path.length - a.path.length)[0]
  return best === undefined || best.path.length === path.length ? { ...issue, path } : best
}

/** Names of fields at any depth of a JSON schema. */
function fieldNames(schema: unknown, names = new Set<string>()): Set<string> {
  if (typeof schema !== 'object' || schema === null) return names
  for (const [key, value] of Object.entries(schema)) {
    if (key === 'properties') for (const name of Object.keys(value as object)) names.add(name)
    fieldNames(value, names)
  }
  return names
}
