/** What the service reads of a job file: the job that runs a command, and the part `job:` of any. */
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { type FieldPlaces, fieldPlaces, meantField } from '../../base/meant-field.ts'
import { type JobPlacement, jobPlacement } from './jobs.ts'
import { type RunJob, runJob } from './run-job.ts'

/** Throws a UserError that names the field when the object, without its part `job:`, is not such a job. */
export function parseRunJob(object: unknown): RunJob {
  const result = runJob.safeParse(object)
  if (result.success) return result.data
  throw refusal(result.error, [], 'a job that runs a command')
}

/** The same of the part `job:`. */
export function parsePlacement(object: unknown): JobPlacement {
  const result = jobPlacement.safeParse(object)
  if (result.success) return result.data
  throw refusal(result.error, ['job'], "a job's part job")
}

/** A name that is none is told first: it may be what was meant by a field that is missing. */
function refusal({ issues }: z.ZodError, within: readonly string[], what: string): UserError {
  const issue = issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]!
  const path = [...within, ...issue.path].join('.')
  const failure = { failure: 'usage' } as const
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    const meant = meantField(path, key, placesOfFile())
    const hint = meant === undefined ? '.' : `; did you mean ${meant}?`
    const field = path === '' ? key : `${path}.${key}`
    return new UserError(`The field ${field} is not a field of ${what}${hint}`, failure)
  }
  const nested = issue.code === 'invalid_union' ? issue.errors.flat().at(-1) : undefined
  return new UserError(`The field ${path || 'job'} is not right: ${(nested ?? issue).message}.`, failure)
}

let places: FieldPlaces | undefined

function placesOfFile(): FieldPlaces {
  const file = runJob.extend({ job: jobPlacement })
  places ??= fieldPlaces(z.toJSONSchema(file, { io: 'input', unrepresentable: 'any' }))
  return places
}
