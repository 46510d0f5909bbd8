/** Records of any file: JSONL, a JSON list, CSV, TSV, or a text as one record. */
import { UserError } from '../../base/errors.ts'
import { jsonLines, jsonList, type RawRecord } from './json-records.ts'
import { type Line, readLines } from './lines.ts'
import { placeOf, type SourceLine } from './sample.ts'
import { tableRows } from './table-records.ts'

export const layouts = ['jsonl', 'json', 'csv', 'tsv', 'text'] as const
export type Layout = (typeof layouts)[number]

export interface ReadOptions {
  /** From the file's name and first character when it is not given. */
  layout?: Layout | undefined
  /** Which column or field of the file is which field of a record. Columns without names are numbered from 1. */
  columns?: Readonly<Record<string, string | number>> | undefined
  /** Whether the first row of a table names the columns; by default unless `columns` counts them. */
  header?: boolean | undefined
  /** Whether fields of a table may stand in double quotes; by default in CSV and not in TSV. */
  quotes?: boolean | undefined
}

export interface DataRecord {
  value: Readonly<Record<string, unknown>>
  source: SourceLine
}

export const dataEndings = /\.(jsonl|ndjson|json|csv|tsv|txt|md)(\.gz)?$/i

export function readRecords(file: string, options: ReadOptions = {}): AsyncGenerator<DataRecord> {
  return recordsOf(file, readLines(file), options)
}

/** Records of lines that come from anywhere; `file` gives the layout, and errors name it. */
export async function* recordsOf(
  file: string,
  lines: AsyncGenerator<Line[]>,
  options: ReadOptions = {},
): AsyncGenerator<DataRecord> {
  const layout = options.layout ?? layoutByName(file)
  const { first, all } = await peeked(lines)
  const raw = rawRecords(
    all,
    file,
    layout === 'jsonl' && first?.text.trimStart()[0] === '[' ? 'json' : layout,
    options,
  )
  for await (const { value, line } of raw) {
    const source = { file, line }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw noObject(source, value)
    yield { value: renamed(value as Record<string, unknown>, options.columns, source), source }
  }
}

/** Anything that is not known to be something else is taken for JSONL, whose errors say what was expected. */
export function layoutByName(file: string): Layout {
  const ending = /\.(\w+)$/.exec(file.replace(/\.gz$/i, ''))?.[1]?.toLowerCase()
  if (ending === 'csv' || ending === 'tsv') return ending
  return ending === 'txt' || ending === 'md' ? 'text' : 'jsonl'
}

async function peeked(
  lines: AsyncGenerator<Line[]>,
): Promise<{ first: Line | undefined; all: AsyncIterable<Line[]> }> {
  const held: Line[][] = []
  let first: Line | undefined
  while (first === undefined) {
    const { value, done } = await lines.next()
    if (done === true) break
    held.push(value)
    first = value.find(({ text }) => text.trim() !== '')
  }
  const all = (async function* () {
    yield* held
    yield* lines
  })()
  return { first, all }
}

function rawRecords(
  lines: AsyncIterable<Line[]>,
  file: string,
  layout: Layout,
  options: ReadOptions,
): AsyncIterable<RawRecord> {
  if (layout === 'jsonl') return jsonLines(lines, file)
  if (layout === 'json') return jsonList(lines, file)
  if (layout === 'text') return wholeText(lines, file)
  const counted = Object.values(options.columns ?? {}).some((column) => typeof column === 'number')
  return tableRows(lines, file, {
    separator: layout === 'csv' ? ',' : '\t',
    quotes: options.quotes ?? layout === 'csv',
    header: options.header ?? !counted,
  })
}

/** A text is one document, which is in memory with its tokens: some 12 bytes a character. */
const textCharactersMax = 64 << 20

async function* wholeText(lines: AsyncIterable<Line[]>, file: string): AsyncGenerator<RawRecord> {
  const parts: string[] = []
  let characters = 0
  for await (const chunk of lines) {
    for (const { text } of chunk) {
      characters += text.length + 1
      parts.push(text)
    }
    if (characters > textCharactersMax) {
      throw new UserError(`${file} has more than ${textCharactersMax >> 20} million characters.`, {
        fix: 'Learn from it by data: {text: FILE}, which takes texts of any length; or split it into several files of a folder, or into records of JSONL: {"text": "..."}.',
      })
    }
  }
  if (characters > 0) yield { value: { text: parts.join('\n') }, line: 1 }
}

function renamed(
  value: Record<string, unknown>,
  columns: ReadOptions['columns'],
  source: SourceLine,
): Record<string, unknown> {
  if (columns === undefined) return value
  const out: Record<string, unknown> = {}
  for (const [field, column] of Object.entries(columns)) {
    if (!Object.hasOwn(value, String(column))) {
      const names = Object.keys(value).join(', ').slice(0, 200)
      throw new UserError(`${placeOf(source)}: there is no column ${column}; there are: ${names}.`, {
        fix: `Correct ${field}: ${column} in the field columns.`,
      })
    }
    out[field] = value[String(column)]
  }
  return out
}

function noObject(source: SourceLine, value: unknown): UserError {
  const shown = JSON.stringify(value)?.slice(0, 60)
  return new UserError(`${placeOf(source)}: a record must be an object with fields, not ${shown}.`, {
    fix: 'Write records such as {"messages": [...]}, {"prompt": "...", "completion": "..."} or {"text": "..."}.',
  })
}
