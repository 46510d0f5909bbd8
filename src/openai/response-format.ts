import type { GenerationFields } from '../api/fields.ts'
import type { Constraint } from '../constrain/constraint.ts'
import type { Pattern } from '../constrain/pattern.ts'
import { Problem } from '../http/problem.ts'
import type { ConstraintChecks } from './constraint-checks.ts'

const schemaField = 'response_format.json_schema.schema'

/** What `response_format` holds the text to. Rejects with the {@link Problem} that names what cannot be kept. */
export async function constraintOf(
  body: GenerationFields,
  checks: ConstraintChecks,
): Promise<Constraint | undefined> {
  const { response_format: format } = body
  if (format === undefined || format.type === 'text') return undefined
  checkEnding(body, 'response_format', 'the end of the JSON is the end of the text')
  const schema = format.type === 'json_schema' ? format.json_schema.schema : undefined
  if (schema === undefined) return { kind: 'json' }
  const constraint: Constraint = { kind: 'json', schema }
  const verdict = await checks.check(constraint)
  if (verdict.ok) return constraint
  const { path, message } = verdict
  const named = path === '' ? 'The schema' : path.slice(0, 500)
  throw new Problem(400, 'invalid_json_schema', `${named}: ${message}`, { param: schemaField })
}

/** The same as a part of what else the text may be. */
export function heldFormat({ response_format: format }: GenerationFields): Pattern | undefined {
  if (format === undefined || format.type === 'text') return undefined
  const schema = format.type === 'json_schema' ? format.json_schema.schema : undefined
  const json = { json: schema ?? { type: 'object' } }
  return { sequence: [{ either: [{ literal: '' }, { literal: ' ' }] }, json] }
}

/** Refuses wishes about a text's end that do not go with what `field` holds it to. */
export function checkEnding(body: GenerationFields, field: string, why: string): void {
  const clash = (param: string, reason: string) =>
    new Problem(400, 'unsupported_parameter', `${param}: Not together with ${field}: ${reason}.`, { param })
  if (body.ignore_eos === true) throw clash('ignore_eos', why)
  if ((body.stop_token_ids ?? []).length > 0) throw clash('stop_token_ids', 'a token inside could end it')
}
