/** Records of CSV (RFC 4180) and TSV (IANA text/tab-separated-values), named by their header. */
import { UserError } from '../../base/errors.ts'
import type { RawRecord } from './json-records.ts'
import type { Line } from './lines.ts'
import { placeOf } from './sample.ts'

export interface TableOptions {
  separator: string
  /** Fields may stand in double quotes; TSV has none. */
  quotes: boolean
  /** The first row names the columns; otherwise they are called 1, 2, 3. */
  header: boolean
}

/** A quoted field that never ends would otherwise take the rest of the file. */
const rowLinesMax = 10_000

export async function* tableRows(
  lines: AsyncIterable<Line[]>,
  file: string,
  options: TableOptions,
): AsyncGenerator<RawRecord> {
  let names: string[] | undefined
  for await (const { fields, line } of rowsOf(lines, file, options)) {
    if (names === undefined) {
      names = options.header ? fields.map((name) => name.trim()) : fields.map((_, index) => String(index + 1))
      if (options.header) continue
    }
    if (fields.length !== names.length) throw wrongWidth(file, line, fields.length, names)
    yield { value: Object.fromEntries(names.map((name, index) => [name, fields[index]!])), line }
  }
}

async function* rowsOf(
  lines: AsyncIterable<Line[]>,
  file: string,
  options: TableOptions,
): AsyncGenerator<{ fields: string[]; line: number }> {
  let open: { text: string; line: number; lines: number } | undefined
  for await (const chunk of lines) {
    for (const { text, number } of chunk) {
      if (open === undefined && text === '') continue
      open =
        open === undefined
          ? { text, line: number, lines: 1 }
          : { text: `${open.text}\n${text}`, line: open.line, lines: open.lines + 1 }
      if (open.lines > rowLinesMax) throw unclosed(file, open.line)
      // Between the quotes of a field lies an even number of them, so an odd one means that it goes on.
      if (options.quotes && countOf(open.text, '"') % 2 === 1) continue
      yield { fields: fieldsOf(open.text, options, file, open.line), line: open.line }
      open = undefined
    }
  }
  if (open !== undefined) throw unclosed(file, open.line)
}

function countOf(text: string, character: string): number {
  let count = 0
  for (let at = text.indexOf(character); at >= 0; at = text.indexOf(character, at + 1)) count++
  return count
}

function fieldsOf(row: string, { separator, quotes }: TableOptions, file: string, line: number): string[] {
  if (!quotes || !row.includes('"')) return row.split(separator)
  const fields: string[] = []
  let at = 0
  for (;;) {
    if (row[at] === '"') {
      const end = closingQuote(row, at + 1)
      fields.push(row.slice(at + 1, end).replaceAll('""', '"'))
      at = end + 1
      if (at < row.length && row[at] !== separator) throw behindQuote(file, line, row.slice(at, at + 10))
    } else {
      const end = row.indexOf(separator, at)
      fields.push(row.slice(at, end < 0 ? undefined : end))
      at = end < 0 ? row.length : end
    }
    if (at >= row.length) return fields
    at += separator.length
  }
}

function closingQuote(row: string, from: number): number {
  for (let at = row.indexOf('"', from); at >= 0; at = row.indexOf('"', at + 2)) {
    if (row[at + 1] !== '"') return at
  }
  return row.length
}

function wrongWidth(file: string, line: number, found: number, names: readonly string[]): UserError {
  return new UserError(
    `${placeOf({ file, line })}: the row has ${found} fields and the table ${names.length} columns (${names.join(', ').slice(0, 100)}).`,
    { fix: 'Put fields that hold the separator into double quotes, or correct the row.' },
  )
}

function unclosed(file: string, line: number): UserError {
  return new UserError(`${placeOf({ file, line })}: a double quote opens a field that does not end.`, {
    fix: 'Close it, write "" for a quote inside a field, or set quotes: false for a table that quotes nothing.',
  })
}

function behindQuote(file: string, line: number, rest: string): UserError {
  return new UserError(`${placeOf({ file, line })}: behind a quoted field stands ${JSON.stringify(rest)}.`, {
    fix: 'Write "" for a quote inside a field, or set quotes: false for a table that quotes nothing.',
  })
}
