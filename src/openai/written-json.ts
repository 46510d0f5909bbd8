/** JSON as a model wrote it: where it ends, and what stands in it in the very words. */

export interface WrittenObject {
  text: string
  value: Record<string, unknown>
}

/** `text` when it is one JSON object. */
export function objectAt(text: string): WrittenObject | undefined {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
    return { text, value: value as Record<string, unknown> }
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

/** The text of a field of an object that is known to be JSON. */
export function fieldText(text: string, field: string): string | undefined {
  let found: string | undefined
  let at = text.indexOf('{') + 1
  for (;;) {
    const key = /^[\s,]*("[^"\\]*(?:\\[\s\S][^"\\]*)*")\s*:\s*/.exec(text.slice(at))
    if (key === null) return found
    at += key[0].length
    const end = at + valueEnd(text.slice(at))
    if (JSON.parse(key[1]!) === field) found = text.slice(at, end).trim()
    at = end
  }
}

/** Where a value ends that is followed by a comma, a closing bracket, or nothing. */
function valueEnd(text: string): number {
  let depth = 0
  for (const { 0: token, index } of text.matchAll(/"[^"\\]*(?:\\[\s\S][^"\\]*)*"|[[\]{},]/g)) {
    if (token === '{' || token === '[') depth++
    else if ((token === '}' || token === ']' || token === ',') && depth === 0) return index
    else if (token === '}' || token === ']') depth--
  }
  return text.length
}

/** Where the object ends that `text` begins with; undefined when it does not end. */
export function objectEnd(text: string): number | undefined {
  if (!text.startsWith('{')) return undefined
  let depth = 0
  for (const { 0: token, index } of text.matchAll(/"[^"\\]*(?:\\[\s\S][^"\\]*)*"|[{}]/g)) {
    if (token === '{') depth++
    else if (token === '}' && --depth === 0) return index + 1
  }
  return undefined
}
