/**
 * What goes into a database and comes out of it, the same on both.
 *
 * Times are integers (Unix milliseconds), yes and no are 1 and 0, and JSON is text: it keeps its key order and
 * reads back as what was written. A column holds JSON when its name says so ({@link isJsonColumn}).
 */
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'

const jsonColumns: ReadonlySet<string> = new Set(['spec', 'status', 'details'])

/** `spec`, `status`, `details` and whatever ends with `_json`. */
export function isJsonColumn(name: string): boolean {
  return jsonColumns.has(name) || name.endsWith('_json')
}

/** A parameter as both drivers take it. */
export function toDatabase(value: unknown): string | number | bigint | Uint8Array | null {
  if (value === null || value === undefined) return null
  if (typeof value === 'string') return withoutNul(value)
  if (typeof value === 'number') {
    assert(Number.isFinite(value), 'numbers that go into the database are finite')
    return value
  }
  if (typeof value === 'boolean') return value ? 1 : 0
  if (typeof value === 'bigint' || value instanceof Uint8Array) return value
  assert(!(value instanceof Date), 'times go into the database as Unix milliseconds')
  return JSON.stringify(value)
}

/** What no database of ours takes, however often it is tried. */
export class Unstorable extends UserError {}

/** PostgreSQL cannot store it, so neither database does. */
function withoutNul(text: string): string {
  if (!text.includes('\0')) return text
  throw new Unstorable('A text holds the character U+0000, which cannot be stored.', {
    failure: 'usage',
    fix: 'Leave that character out.',
  })
}

/**
 * A text as both databases keep it, with U+FFFD for what they do not: for texts of programs and errors, which nobody
 * typed who could be asked for another.
 */
export function storable(text: string): string {
  return text.replace(/[\0\p{Surrogate}]/gu, '\ufffd')
}

/** Parses the JSON columns of `rows` in place. */
export function fromDatabase(rows: unknown[]): unknown[] {
  const first = rows[0]
  if (typeof first !== 'object' || first === null) return rows
  const json = Object.keys(first).filter(isJsonColumn)
  if (json.length === 0) return rows
  for (const row of rows as Record<string, unknown>[]) {
    for (const name of json) {
      const text = row[name]
      if (typeof text === 'string') row[name] = JSON.parse(text)
    }
  }
  return rows
}
