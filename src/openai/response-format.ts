import type { GenerationFields } from '../api/fields.ts'
import type { Constraint } from '../constrain/constraint.ts'
import { compileSchema } from '../constrain/schema.ts'
import { Problem } from '../http/problem.ts'

const schemaField = 'response_format.json_schema.schema'

/** What `response_format` holds the text to. Throws the {@link Problem} that names what cannot be kept. */
export function constraintOf(body: GenerationFields): Constraint | undefined {
  const { response_format: format } = body
  if (format === undefined || format.type === 'text') return undefined
  if (body.ignore_eos === true) throw clash('ignore_eos', 'the end of the JSON is the end of the text')
  if ((body.stop_token_ids ?? []).length > 0)
    throw clash('stop_token_ids', 'a token of the JSON could end it')
  const schema = format.type === 'json_schema' ? format.json_schema.schema : undefined
  if (schema === undefined) return { kind: 'json' }
  const compiled = compileSchema(schema)
  if (compiled.ok) return { kind: 'json', schema }
  const { path, message } = compiled
  throw new Problem(
    400,
    'invalid_json_schema',
    `${path === '' ? 'The schema' : path.slice(0, 500)}: ${message}`,
    {
      param: schemaField,
    },
  )
}

function clash(field: string, why: string): Problem {
  return new Problem(400, 'unsupported_parameter', `${field}: Not together with response_format: ${why}.`, {
    param: field,
  })
}
