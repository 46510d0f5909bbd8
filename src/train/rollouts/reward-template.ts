/**
 * Texts with places that a record or an answer fills, as OpenAI's graders have them: `{{ item.answer }}` is a field of the
 * record, `{{ sample.output_text }}` the answer, `{{ sample.output_json.total }}` a field of the answer where that is JSON.
 */
import { UserError } from '../../base/errors.ts'
import { jsonOf } from '../../base/json.ts'

const place = /\{\{\s*([^{}]*?)\s*\}\}/g
const known = /^(item(\.[\w-]+)+|sample\.output_text|sample\.output_json(\.[\w-]+)*)$/

type Fields = Readonly<Record<string, unknown>>

/** Throws a UserError that names the field for a place that nothing fills. */
export function checkTemplateText(text: string, field: string): void {
  for (const [, path] of text.matchAll(place)) {
    if (known.test(path!)) continue
    throw new UserError(`The field ${field} has the place {{ ${path} }}, which nothing fills.`, {
      failure: 'usage',
      fix: 'There are {{ item.FIELD }} of the record, {{ sample.output_text }} and {{ sample.output_json.FIELD }}.',
    })
  }
}

/** The first place of the record's that the record does not have. */
export function missingPlace(text: string, record: Fields): string | undefined {
  for (const [, path] of text.matchAll(place))
    if (path!.startsWith('item.') && at(record, path!.split('.').slice(1)) === undefined) return path
  return undefined
}

/** What an answer that is no JSON, or lacks the field, does not fill is empty. */
export function filledIn(text: string, record: Fields, answer: string): string {
  return text.replace(place, (_, path: string) => {
    const [first, second, ...rest] = path.split('.')
    if (first === 'item') return textOf(at(record, path.split('.').slice(1)))
    return second === 'output_text' ? answer : textOf(at(jsonOf(answer), rest))
  })
}

function at(value: unknown, path: readonly string[]): unknown {
  let found = value
  for (const name of path) {
    if (typeof found !== 'object' || found === null || !Object.hasOwn(found, name)) return undefined
    found = (found as Fields)[name]
  }
  return found
}

function textOf(value: unknown): string {
  if (value === undefined || value === null) return ''
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
