import { UserError } from '../base/errors.ts'

/** What becomes of the stretches that a pattern matched (the names are those of tokenizer.json). */
export type SplitBehavior = 'Removed' | 'Isolated' | 'MergedWithPrevious' | 'MergedWithNext' | 'Contiguous'

export const splitBehaviors: readonly SplitBehavior[] = [
  'Removed',
  'Isolated',
  'MergedWithPrevious',
  'MergedWithNext',
  'Contiguous',
]

interface Span {
  start: number
  end: number
  matched: boolean
}

/** Cuts `text` around the matches of `pattern` (a literal, or a global regular expression). */
export function split(
  text: string,
  pattern: string | RegExp,
  behavior: SplitBehavior,
  invert = false,
): string[] {
  try {
    return cut(text, pattern, behavior, invert)
  } catch (error) {
    // The engine's matcher notes every place to go back to, and gives up after some million of them.
    if (!(error instanceof RangeError)) throw error
    throw new UserError('The text has a stretch of millions of characters without a word boundary', {
      fix: 'Break the text up, or leave out what is not language.',
      cause: error,
    })
  }
}

function cut(text: string, pattern: string | RegExp, behavior: SplitBehavior, invert: boolean): string[] {
  if (behavior === 'Isolated' && typeof pattern !== 'string') {
    const whole = matchesThatCover(text, pattern)
    if (whole !== undefined) return whole
  }
  const spans = spansOf(text, pattern)
  if (invert) for (const span of spans) span.matched = !span.matched
  return joined(spans, behavior).map(({ start, end }) => text.slice(start, end))
}

/** Most pre-tokenizer patterns match everything; one native call then does the whole work. */
function matchesThatCover(text: string, pattern: RegExp): string[] | undefined {
  const matches = text.match(pattern)
  if (matches === null) return undefined
  let length = 0
  for (const match of matches) length += match.length
  return length === text.length ? matches : undefined
}

function spansOf(text: string, pattern: string | RegExp): Span[] {
  const spans: Span[] = []
  let covered = 0
  const add = (start: number, end: number) => {
    if (start > covered) spans.push({ start: covered, end: start, matched: false })
    if (end > start) spans.push({ start, end, matched: true })
    covered = end
  }
  if (typeof pattern !== 'string') {
    for (const match of text.matchAll(pattern)) add(match.index, match.index + match[0].length)
  } else if (pattern !== '') {
    for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + pattern.length))
      add(at, at + pattern.length)
  }
  if (covered < text.length) spans.push({ start: covered, end: text.length, matched: false })
  return spans
}

function joined(spans: Span[], behavior: SplitBehavior): Span[] {
  if (behavior === 'Removed') return spans.filter((span) => !span.matched)
  if (behavior === 'Isolated') return spans
  const result: Span[] = []
  let previous = false
  for (const span of behavior === 'MergedWithNext' ? spans.reverse() : spans) {
    const last = result.at(-1)
    const joins =
      last !== undefined &&
      (behavior === 'Contiguous' ? span.matched === previous : span.matched && !previous)
    if (joins) {
      last.start = Math.min(last.start, span.start)
      last.end = Math.max(last.end, span.end)
    } else result.push({ ...span })
    previous = span.matched
  }
  return behavior === 'MergedWithNext' ? result.reverse() : result
}
