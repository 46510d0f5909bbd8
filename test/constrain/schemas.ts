/** Random schemas of every keyword that is kept, documents that fit them, and a validator that is not ours. */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import type { Random } from '../../src/base/random.ts'

type Schema = Readonly<Record<string, unknown>>

const names = ['a', 'ab', 'é', 'b"c', 'name', '日', 'x\ny', '7']
const scalars = [1, -2.5, 'text', 'é"', true, null, [1, 2], { k: 'v' }, 0, '', [], {}]
/** Patterns, and texts that fit them. */
const patterns = new Map([
  ['^[a-z]{2,4}$', ['ab', 'wxyz']],
  ['\\d', ['7', 'é"\n8\\', '日1日']],
  ['^(é|\\p{Lu})+$', ['éÀ', 'ABC']],
  ['a$|^b', ['a', 'b', 'b"', '\ta']],
])
const formats = new Map([
  ['date', ['2026-11-27', '0001-01-01']],
  ['time', ['23:59:59Z', '00:00:00.25+01:30']],
  ['date-time', ['2026-11-27T10:00:00Z']],
  ['uuid', ['123e4567-e89b-12d3-a456-426614174000']],
  ['email', ['a.b@example.org']],
  ['ipv4', ['127.0.0.1', '255.255.255.0']],
])

/** A schema that names its parts in `$defs`, one of which names itself. */
export function randomSchema(random: Random, depth: number): Schema {
  const part = randomPart(random, 0)
  const tree = {
    type: 'object',
    properties: {
      value: { $ref: '#/$defs/part' },
      next: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/tree' }] },
    },
    required: ['value'],
  }
  return { ...randomPart(random, depth), $defs: { part, tree } }
}

function randomPart(random: Random, depth: number): Schema {
  const pick = <Item>(items: readonly Item[]): Item => items[random.integer(items.length)]!
  const inner = () => randomPart(random, depth - 1)
  const kinds = [
    'string',
    'string',
    'integer',
    'integer',
    'number',
    'boolean',
    'null',
    'enum',
    'const',
    'types',
  ]
  const nested = ['object', 'object', 'object', 'array', 'array', 'anyOf', 'allOf', '$ref']
  const kind = pick(depth > 0 ? [...kinds, ...nested, ...nested] : kinds)
  const least = random.integer(3)
  switch (kind) {
    case 'string':
      return pick<Schema>([
        { type: 'string' },
        { type: 'string', minLength: least, maxLength: least + random.integer(4) },
        { type: 'string', minLength: least },
        { type: 'string', pattern: pick([...patterns.keys()]) },
        { pattern: pick([...patterns.keys()]), type: 'string', minLength: 1, maxLength: 2 + least },
        { type: 'string', format: pick([...formats.keys()]) },
      ])
    case 'integer': {
      const low = pick([-1200, -7, -1, 0, 3, 95])
      return pick<Schema>([
        { type: 'integer' },
        { type: 'integer', minimum: low, maximum: low + random.integer(200) },
        { type: 'integer', exclusiveMinimum: low },
        { type: 'integer', exclusiveMaximum: low + 0.5 },
      ])
    }
    case 'enum':
      return { enum: [...new Set([pick(scalars), pick(scalars)])] }
    case 'const':
      return { const: pick(scalars) }
    case 'types':
      return { type: [pick(['string', 'null']), pick(['integer', 'boolean'])] }
    case 'anyOf':
      return { [pick(['anyOf', 'oneOf'])]: [inner(), inner()] }
    case 'allOf':
      return { allOf: [inner()] }
    case '$ref':
      return { $ref: pick(['#/$defs/part', '#/$defs/tree']) }
    case 'array': {
      const bounds = pick([{}, { minItems: least }, { minItems: least, maxItems: least + random.integer(3) }])
      return { type: 'array', ...pick([{}, { items: inner() }, { items: inner() }]), ...bounds }
    }
    case 'object':
      return randomObject(random, inner)
    default:
      return { type: kind }
  }
}

function randomObject(random: Random, inner: () => Schema): Schema {
  const chosen = names.filter(() => random.uniform() < 0.4)
  const properties = Object.fromEntries(chosen.map((name) => [name, inner()]))
  const required = chosen.filter(() => random.uniform() < 0.5)
  const additional = [{}, { additionalProperties: false }, { additionalProperties: true }]
  const rest = [...additional, { additionalProperties: { type: 'integer' } }][random.integer(4)]!
  return { type: 'object', properties, required, ...rest }
}

/**
 * A document that fits a schema of {@link randomSchema}, written as docs/structured-output.md says; undefined where the
 * draw came too deep.
 */
export function randomDocument(random: Random, root: Schema): string | undefined {
  let values = 0
  const space = () => (random.uniform() < 0.3 ? ' ' : '')
  const pick = <Item>(items: readonly Item[]): Item => items[random.integer(items.length)]!
  const between = (low: number, high: number) => low + random.integer(high - low + 1)
  const text = (length: number) => Array.from({ length }, () => pick([...'ab"\\/\n\t\u0001é日😀 '])).join('')
  const write = (schema: Schema | boolean): string => {
    if (++values > 60) throw new RangeError('too deep')
    if (typeof schema === 'boolean') return JSON.stringify(pick([1, 'x', null, [true], { a: {} }]))
    if (schema.$ref !== undefined)
      return write((root.$defs as Schema)[String(schema.$ref).slice(8)] as Schema)
    const branches = schema.anyOf ?? schema.oneOf ?? schema.allOf
    if (branches !== undefined) return write(pick(branches as Schema[]))
    if (schema.enum !== undefined) return JSON.stringify(pick(schema.enum as unknown[]))
    if ('const' in schema) return JSON.stringify(schema.const)
    switch (pick([schema.type].flat())) {
      case 'string':
        return JSON.stringify(writeText(schema))
      case 'integer':
        return String(writeInteger(schema))
      case 'number':
        return pick(['0', '-0', '-12.5', '1e9', '3.25E-2', '123456789012345678'])
      case 'boolean':
        return pick(['true', 'false'])
      case 'null':
        return 'null'
      case 'array': {
        const least = (schema.minItems as number) ?? 0
        const count = between(least, (schema.maxItems as number) ?? least + 2)
        const items = Array.from({ length: count }, () => write((schema.items as Schema) ?? true))
        return `[${items.join(`,${space()}`)}]`
      }
      default:
        return writeObject(schema)
    }
  }
  const writeText = ({ pattern, format, minLength, maxLength }: Schema): string => {
    const [least, most] = [(minLength as number) ?? 0, (maxLength as number) ?? 9]
    const known = patterns.get(String(pattern)) ?? formats.get(String(format))
    if (known === undefined) return text(between(least, most))
    const fitting = known.filter((one) => [...one].length >= least && [...one].length <= most)
    if (fitting.length === 0) throw new RangeError('no text of this length is known')
    return pick(fitting)
  }
  const writeInteger = ({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Schema): number => {
    const low =
      (minimum as number) ?? (exclusiveMinimum === undefined ? undefined : (exclusiveMinimum as number) + 1)
    const high =
      (maximum as number) ?? (exclusiveMaximum === undefined ? undefined : (exclusiveMaximum as number) - 0.5)
    return between(low ?? (high ?? 900) - 900, high ?? (low ?? 0) + 900)
  }
  const writeObject = (schema: Schema): string => {
    const properties = (schema.properties ?? {}) as Record<string, Schema>
    const required = (schema.required ?? []) as string[]
    const given = Object.keys(properties).filter((name) => required.includes(name) || random.uniform() < 0.5)
    const members: [string, string][] = given.map((name) => [name, write(properties[name]!)])
    const rest = schema.additionalProperties as Schema | boolean | undefined
    if (rest !== undefined && rest !== false && random.uniform() < 0.5) members.push(['more', write(rest)])
    return `{${members.map(([name, value]) => `${JSON.stringify(name)}:${space()}${value}`).join(`,${space()}`)}}`
  }
  try {
    return space() + write(root)
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}

const ajv = new Ajv2020({ strict: false })
addFormats.default(ajv)
const validators = new WeakMap<object, ValidateFunction>()

/** Whether a value fits a schema, by ajv; `oneOf` is read as `anyOf`. */
export function fits(schema: object | undefined, value: unknown): boolean {
  if (schema === undefined) return true
  let validate = validators.get(schema)
  if (validate === undefined) {
    const read = JSON.parse(JSON.stringify(schema), (_, one) => {
      if (one?.oneOf === undefined) return one
      const { oneOf, ...rest } = one
      return { ...rest, anyOf: oneOf }
    })
    validators.set(schema, (validate = ajv.compile(read)))
  }
  return validate(value) as boolean
}
