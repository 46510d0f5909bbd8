import type { z } from 'zod'
import { firstIssue } from '../../api/issues.ts'
import { Problem } from '../../http/problem.ts'

/** What a client of OpenAI's API sent, as `schema` reads it; or the {@link Problem} that names the first field that is wrong. */
export function checked<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const { param, message, code } = firstIssue(parsed.error, schema)
  throw new Problem(400, code, param === undefined ? message : `${param}: ${message}`, { param })
}
