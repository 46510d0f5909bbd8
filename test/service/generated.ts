import type { Random } from '../../src/base/random.ts'

export interface JsonSchema {
  type?: string | string[]
  enum?: unknown[]
  const?: unknown
  anyOf?: JsonSchema[]
  oneOf?: JsonSchema[]
  properties?: Record<string, JsonSchema>
  required?: string[]
  items?: JsonSchema
  minimum?: number
  maximum?: number
  minLength?: number
  maxLength?: number
  pattern?: string
  format?: string
}

const texts = [
  ...[
    '',
    'a',
    'default',
    'main',
    '0',
    '-1',
    'é',
    '\u{1F6A1}',
    '%',
    "'; drop table people; --",
    '../..',
    'a'.repeat(300),
  ],
  ...['null', '[1]', '{"a":1}', '\u0000', 'a\u0000b', '\ud800', 'constructor', '__proto__', ' ', '\n', '١'],
]
const numbers = [0, 1, -1, 0.5, 1e9, 2 ** 31, 2 ** 53 - 1, 2 ** 53, -(2 ** 63), 1e308, 1e-320]
const odd: unknown[] = [null, true, [], {}, [[]], { toString: 1 }, 'text', 7]

/** Values that mostly fit a JSON schema, and sometimes do not. */
export class Generator {
  readonly #random: Random

  constructor(random: Random) {
    this.#random = random
  }

  chance(share: number): boolean {
    return this.#random.uniform() < share
  }

  pick<Value>(values: readonly Value[]): Value {
    return values[this.#random.integer(values.length)]!
  }

  pathValue(name: string): string {
    if (this.chance(0.7)) {
      if (name === 'project') return 'default'
      if (name === 'organisation') return 'main'
      if (name === 'person') return 'ann@example.org'
    }
    return this.pick(texts.filter((text) => text !== '' && text !== '../..' && text !== '\ud800'))
  }

  text(value: unknown): string {
    const text = typeof value === 'object' ? JSON.stringify(value) : String(value)
    return Buffer.from(text).toString()
  }

  value(schema: JsonSchema, depth = 0): unknown {
    if (this.chance(0.04)) return this.pick(odd)
    if (schema.const !== undefined) return schema.const
    if (schema.enum !== undefined) return this.pick(schema.enum)
    const alternatives = schema.anyOf ?? schema.oneOf
    if (alternatives !== undefined) return this.value(this.pick(alternatives), depth)
    const type = Array.isArray(schema.type) ? this.pick(schema.type) : schema.type
    if (type === 'object') return this.#object(schema, depth)
    if (type === 'array')
      return depth > 4
        ? []
        : Array.from({ length: this.#random.integer(4) }, () => this.value(schema.items ?? {}, depth + 1))
    if (type === 'integer' || type === 'number') return this.#number(schema)
    if (type === 'boolean') return this.chance(0.5)
    if (type === 'null') return null
    return this.#string(schema)
  }

  #object({ properties = {}, required = [] }: JsonSchema, depth: number): object {
    const names = Object.keys(properties).filter((name) => this.chance(required.includes(name) ? 0.97 : 0.4))
    const entries = names.map((name) => [name, this.value(properties[name]!, depth + 1)])
    if (this.chance(0.03)) entries.push([this.pick(texts), this.pick(odd)])
    return Object.fromEntries(entries)
  }

  #number({ minimum, maximum }: JsonSchema): number {
    if (this.chance(0.2)) return this.pick(numbers)
    const low = Math.max(minimum ?? 0, -1e6)
    return low + this.#random.integer(Math.max(1, Math.min((maximum ?? low + 100) - low, 1e6) + 1))
  }

  #string({ format, pattern, minLength = 0 }: JsonSchema): string {
    if (this.chance(0.15)) return this.pick(texts)
    if (format === 'email') return `p${this.#random.integer(50)}@example.org`
    if (format === 'uri') return 'https://example.org/x'
    if (pattern?.includes('\\d{6}')) return '123456'
    if (pattern?.includes('a-z0-9')) return `n${this.#random.integer(1000)}`
    const text = this.pick(['job:view', '*', 'some words that are long enough', 'ann@example.org', 'hub'])
    return text.padEnd(minLength, 'x')
  }
}
