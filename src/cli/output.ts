/** What a command prints on stdout: a table for people, JSON for programs, ids alone for shell loops. */
import { bold } from './terminal.ts'

export interface OutputFlags {
  json?: boolean
  quiet?: boolean
}

/** A column of a table: its heading, and what stands in it. */
export type Columns<Item> = Readonly<Record<string, (item: Item) => string | number | null | undefined>>

export class Output {
  readonly #flags: OutputFlags

  constructor(flags: OutputFlags) {
    this.#flags = flags
  }

  get isJson(): boolean {
    return this.#flags.json === true
  }

  /** A list: one JSON object a line with --json, ids with --quiet. */
  list<Item extends { id: string }>(items: readonly Item[], columns: Columns<Item>): void {
    if (this.#flags.json) for (const item of items) line(JSON.stringify(item))
    else if (this.#flags.quiet) for (const { id } of items) line(id)
    else table(items, columns)
  }

  /** One thing: its JSON, its id, or a line per field. */
  one<Item extends { id: string }>(item: Item, columns: Columns<Item>): void {
    if (this.#flags.json) line(JSON.stringify(item))
    else if (this.#flags.quiet) line(item.id)
    else {
      const width = Math.max(...Object.keys(columns).map(({ length }) => length))
      for (const [heading, text] of Object.entries(columns))
        line(`${heading.padEnd(width)}  ${cell(text(item))}`)
    }
  }
}

export function line(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** Columns as wide as what is in them. An empty list prints its headings. */
function table<Item>(items: readonly Item[], columns: Columns<Item>): void {
  const headings = Object.keys(columns)
  const rows = items.map((item) => headings.map((heading) => cell(columns[heading]!(item))))
  const widths = headings.map((heading, i) => Math.max(heading.length, ...rows.map((row) => row[i]!.length)))
  const print = (cells: readonly string[]) =>
    cells
      .map((text, i) => text.padEnd(widths[i]!))
      .join('  ')
      .trimEnd()
  line(process.stdout.isTTY ? bold(print(headings)) : print(headings))
  for (const row of rows) line(print(row))
}

/** Control characters of stored texts must not reach a terminal. */
function cell(value: string | number | null | undefined): string {
  if (value === null || value === undefined) return '-'
  return String(value).replace(/\p{Cc}+/gu, ' ')
}

/** `2026-11-26 15:30`, in the zone of who reads it. */
export function timeText(unixMs: number | null): string {
  if (unixMs === null) return '-'
  const date = new Date(unixMs)
  const two = (value: number) => String(value).padStart(2, '0')
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`
}
