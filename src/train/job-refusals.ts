/** What is wrong with a job file, in the words of its fields. */
import { z } from 'zod'
import { UserError } from '../base/errors.ts'
import { type FieldPlaces, fieldPlaces, meantField, standsAt } from '../base/meant-field.ts'

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
    const places = fieldPlaces(z.toJSONSchema(file, { unrepresentable: 'any', io: 'input' }))
    return refused([field, key].filter(Boolean).join('.'), whyUnknown(field, key, places))
  }
  if (isMissing(issue)) return missing(issues.filter(isMissing).map(({ path }) => path.join('.')))
  return refused(field || 'job', `is not right: ${issue.message}`)
}

/** A name that is right elsewhere was put into the wrong place, or beside what excludes it. */
function whyUnknown(field: string, key: string, places: FieldPlaces): string {
  if (standsAt(field, key, places)) return `does not go together with the other fields of ${field}`
  const why = places.has(key) ? 'does not belong there' : 'is not a field of a training job'
  const meant = meantField(field, key, places)
  return meant === undefined ? why : `${why}; did you mean ${meant}?`
}

function isMissing(issue: z.core.$ZodIssue): boolean {
  const { code, message, path } = issue
  if (path.length === 0) return false
  if (code === 'invalid_union')
    return issue.errors.every(([first]) => first !== undefined && isMissing({ ...first, path }))
  return code === 'invalid_type' && message.endsWith('received undefined')
}

/** What to write where a field is missing that most files have in common. */
const usual: Readonly<Record<string, string>> = {
  model: 'model: {architecture: llama, layers: 4, width: 256, heads: 4}',
  data: 'data: {text: book.txt}',
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
