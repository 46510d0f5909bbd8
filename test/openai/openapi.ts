import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { parse } from 'yaml'
import { assert } from '../../src/base/assert.ts'

interface Schema {
  $ref?: string
  type?: string
  nullable?: boolean
  enum?: readonly unknown[]
  required?: readonly string[]
  properties?: Readonly<Record<string, Schema>>
  additionalProperties?: Schema | boolean
  items?: Schema
  anyOf?: readonly Schema[]
  oneOf?: readonly Schema[]
  allOf?: readonly Schema[]
}

const types: Readonly<Record<string, (value: unknown) => boolean>> = {
  string: (value) => typeof value === 'string',
  number: (value) => typeof value === 'number',
  integer: (value) => Number.isInteger(value),
  boolean: (value) => typeof value === 'boolean',
  null: (value) => value === null,
  array: (value) => Array.isArray(value),
  object: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
}

/** Checks values against named schemas of OpenAI's own API description: types, required fields, enums. */
export class OpenApi {
  readonly #lines: readonly string[]
  readonly #schemas = new Map<string, Schema>()

  constructor(path: string) {
    this.#lines = gunzipSync(readFileSync(path)).toString('utf8').split('\n')
  }

  /** What is wrong with `value`, as paths and reasons; fields that the schema does not know count too. */
  complaints(name: string, value: unknown): string[] {
    return this.#check(this.#schema(name), value, name)
  }

  /** Only the one schema is parsed: the whole document takes seconds. */
  #schema(name: string): Schema {
    const known = this.#schemas.get(name)
    if (known !== undefined) return known
    const start = this.#lines.indexOf(`    ${name}:`)
    assert(start !== -1, `the API description has a schema ${name}`)
    const end = this.#lines.findIndex((line, index) => index > start && /^ {0,4}\S/.test(line))
    const schema: Schema = parse(this.#lines.slice(start, end).join('\n'))[name]
    this.#schemas.set(name, schema)
    return schema
  }

  #check(schema: Schema, value: unknown, path: string): string[] {
    if (value === null && schema.nullable === true) return []
    if (schema.$ref !== undefined)
      return this.#check(this.#schema(schema.$ref.split('/').at(-1)!), value, path)
    if (schema.allOf !== undefined) return schema.allOf.flatMap((part) => this.#check(part, value, path))
    const alternatives = schema.anyOf ?? schema.oneOf
    if (alternatives !== undefined) {
      const results = alternatives.map((part) => this.#check(part, value, path))
      return results.some((result) => result.length === 0) ? [] : results.flat()
    }
    if (schema.type !== undefined && types[schema.type]?.(value) === false)
      return [`${path} is no ${schema.type}`]
    if (schema.enum !== undefined && !schema.enum.includes(value))
      return [`${path} is none of ${schema.enum}`]
    if (Array.isArray(value)) {
      return value.flatMap((item, index) => this.#check(schema.items ?? {}, item, `${path}.${index}`))
    }
    return types.object!(value) ? this.#checkFields(schema, value as Record<string, unknown>, path) : []
  }

  #checkFields(schema: Schema, value: Record<string, unknown>, path: string): string[] {
    const missing = (schema.required ?? [])
      .filter((key) => !(key in value))
      .map((key) => `${path}.${key} is missing`)
    const wrong = Object.entries(value).flatMap(([key, inner]) => {
      const known = schema.properties?.[key]
      if (known !== undefined) return this.#check(known, inner, `${path}.${key}`)
      const others = schema.additionalProperties
      if (typeof others === 'object') return this.#check(others, inner, `${path}.${key}`)
      return schema.properties === undefined || others === true ? [] : [`${path}.${key} is not in the schema`]
    })
    return [...missing, ...wrong]
  }
}
