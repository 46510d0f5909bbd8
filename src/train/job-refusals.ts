/** What is wrong with a job file, in the words of its fields. */
import { z } from 'zod'
import { UserError } from '../base/errors.ts'
import { nearest } from '../base/nearest.ts'

export function refused(field: string, why: string, fix?: string): UserError {
  const end = why.endsWith('?') ? '' : '.'
  return new UserError(`The field ${field} ${why}${end}`, {
    failure: 'usage',
    ...(fix !== undefined && { fix }),
  })
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
  if (isMissing(issue)) return missing(issues.filter(isMissing).map(({ path }) => path.join('.')))
  return refused(field || 'job', `is not right: ${issue.message}`)
}

function isMissing({ code, message, path }: z.core.$ZodIssue): boolean {
  return code === 'invalid_type' && message.endsWith('received undefined') && path.length > 0
}

/** What to write where a field is missing that most files have in common. */
const usual: Readonly<Record<string, string>> = {
  context: 'context: 256',
  batch: 'batch: 8',
  steps: 'steps: 1000',
  optimizer: 'optimizer: {learning_rate: 0.0003}',
}

/** All of them at once: whoever adds one should not have to ask for the next. */
function missing(fields: readonly string[]): UserError {
  const lines = fields.flatMap((field) => usual[field] ?? [])
  const fix =
    lines.length === 0
      ? 'Whole job files lie in examples/; `ropeway schema training` prints every field.'
      : `Add for example ${lines.join(', ')}. A model from scratch may say params: 5M instead: the rest follows from it (docs/training-jobs.md).`
  const [first, ...others] = fields
  if (others.length === 0) return refused(first!, 'is missing', fix)
  const names = `${fields.slice(0, -1).join(', ')} and ${fields.at(-1)}`
  return new UserError(`The fields ${names} are missing.`, { failure: 'usage', fix })
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
