/** What a shell would do beyond splitting; here it is refused, because nothing would do it. */
const shellOnly = new Set(['|', '>', '<', '&', ';', '`', '(', ')'])

export type SplitCommand = { ok: true; parts: string[] } | { ok: false; reason: string }

/**
 * Cuts a command line into its arguments as a POSIX shell does, quotes and backslashes included (POSIX.1-2017, Shell
 * Command Language, section 2.2), and does nothing else: no variables, no patterns, no pipes.
 */
export function splitCommandLine(line: string): SplitCommand {
  const parts: string[] = []
  let part: string | undefined
  let quote: "'" | '"' | undefined
  for (let at = 0; at < line.length; at++) {
    const character = line[at]!
    if (quote !== undefined && character === quote) quote = undefined
    else if (quote === "'") part += character
    else if (character === '\\' && escapes(quote, line[at + 1])) part = (part ?? '') + (line[++at] ?? '')
    else if (quote === '"') part += character
    else if (character === "'" || character === '"') {
      quote = character
      part ??= ''
    } else if (/\s/.test(character)) {
      if (part !== undefined) parts.push(part)
      part = undefined
    } else if (shellOnly.has(character)) {
      const reason = `holds ${character}, which only a shell understands; to use one, write [sh, -c, "..."]`
      return { ok: false, reason }
    } else part = (part ?? '') + character
  }
  if (quote !== undefined) return { ok: false, reason: `has a ${quote} without its partner` }
  if (part !== undefined) parts.push(part)
  return parts.length === 0 ? { ok: false, reason: 'names no program' } : { ok: true, parts }
}

/** Inside double quotes a backslash is itself unless something follows that it can protect. */
function escapes(quote: string | undefined, next: string | undefined): boolean {
  return quote === undefined || next === '"' || next === '\\' || next === '$' || next === '`'
}
