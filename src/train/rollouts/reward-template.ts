/** Texts of rewards, and how a record and an answer fill their places. */
import { UserError } from '../../base/errors.ts'
import { jsonOf } from '../../base/json.ts'
import { knownPlaces, strangePlace, textPlace } from '../../base/text-places.ts'

type Fields = Readonly<Record<string, unknown>>

/** Throws a UserError that names the field for a place that nothing fills. */
export function checkTemplateText(text: string, field: string): void {
  const strange = strangePlace(text)
  if (strange === undefined) return
  throw new UserError(`The field ${field} has the place {{ ${strange} }}, which nothing fills.`, {
    failure: 'usage',
    fix: knownPlaces,
  })
}

/** The first place of the record's that the record does not have. */
export function missingPlace(text: string, record: Fields): string | undefined {
  for (const [, path] of text.matchAll(textPlace))
    if (path!.startsWith('item.') && at(record, path!.split('.').slice(1)) === undefined) return path
  return undefined
}

/** What an answer that is no JSON, or lacks the field, does not fill is empty. */
export function filledIn(text: string, record: Fields, answer: string): string {
  return text.replace(textPlace, (_, path: string) => {
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
