/**
 * Texts with places that a record or an answer fills, as OpenAI's graders have them: `{{ item.answer }}` is a field of the
 * record, `{{ sample.output_text }}` the answer, `{{ sample.output_json.total }}` a field of the answer where that is JSON.
 */
export const textPlace = /\{\{\s*([^{}]*?)\s*\}\}/g

const known = /^(item(\.[\w-]+)+|sample\.output_text|sample\.output_json(\.[\w-]+)*)$/

export const knownPlaces =
  'There are {{ item.FIELD }} of the record, {{ sample.output_text }} and {{ sample.output_json.FIELD }}.'

/** The first place in `text` that nothing fills. */
export function strangePlace(text: string): string | undefined {
  for (const [, path] of text.matchAll(textPlace)) if (!known.test(path!)) return path
  return undefined
}
