/** Random schemas of what is supported, and a plain reading of them. */
import type { Random } from '../../src/base/random.ts'

type Schema = Readonly<Record<string, unknown>>

const names = ['a', 'ab', 'é', 'b"c', 'name', '日', 'x\ny']
const scalars = [1, -2.5, 'text', 'é"', true, null, [1, 2], { k: 'v' }]

export function randomSchema(random: Random, depth: number): Schema {
  const pick = <Item>(items: readonly Item[]): Item => items[random.integer(items.length)]!
  const inner = () => randomSchema(random, depth - 1)
  const kinds = ['string', 'integer', 'number', 'boolean', 'null', 'enum', 'const', 'types']
  const nested = ['object', 'object', 'object', 'array', 'array', 'anyOf']
  const kind = pick(depth > 0 ? [...kinds, ...nested, ...nested] : kinds)
  switch (kind) {
    case 'string': {
      const minLength = random.integer(3)
      return pick([
        { type: 'string' },
        { type: 'string', minLength, maxLength: minLength + random.integer(4) },
      ])
    }
    case 'enum':
      return { enum: [pick(scalars), pick(scalars)] }
    case 'const':
      return { const: pick(scalars) }
    case 'types':
      return { type: [pick(['string', 'null']), pick(['integer', 'boolean'])] }
    case 'anyOf':
      return { [pick(['anyOf', 'oneOf'])]: [inner(), inner()] }
    case 'array': {
      const minItems = random.integer(3)
      const bounds = pick([{}, { minItems }, { minItems, maxItems: minItems + random.integer(3) }])
      return { type: 'array', items: inner(), ...bounds }
    }
    case 'object': {
      const chosen = names.filter(() => random.uniform() < 0.4)
      const properties = Object.fromEntries(chosen.map((name) => [name, inner()]))
      const required = chosen.filter(() => random.uniform() < 0.5)
      const additionalProperties = pick([undefined, false, true, { type: 'integer' }])
      return {
        type: 'object',
        properties,
        required,
        ...(additionalProperties !== undefined && { additionalProperties }),
      }
    }
    default:
      return { type: kind }
  }
}

const types: Readonly<Record<string, (value: unknown) => boolean>> = {
  string: (value) => typeof value === 'string',
  number: (value) => typeof value === 'number' && Number.isFinite(value),
  integer: (value) => Number.isInteger(value),
  boolean: (value) => typeof value === 'boolean',
  null: (value) => value === null,
  array: (value) => Array.isArray(value),
  object: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
}

/** Whether a value fits a schema, by the meaning of each keyword. */
export function fits(schema: unknown, value: unknown): boolean {
  if (typeof schema === 'boolean') return schema
  const {
    type,
    properties = {},
    required = [],
    additionalProperties = true,
    items = true,
    ...rest
  } = schema as Schema
  if (rest.enum !== undefined && !(rest.enum as unknown[]).some((one) => same(one, value))) return false
  if ('const' in rest && !same(rest.const, value)) return false
  const either = (rest.anyOf ?? rest.oneOf) as unknown[] | undefined
  if (either !== undefined && !either.some((one) => fits(one, value))) return false
  if (type !== undefined && ![type].flat().some((name) => types[name as string]!(value))) return false
  const between = (size: number, least: unknown, most: unknown) =>
    size >= ((least as number) ?? 0) && size <= ((most as number) ?? Number.POSITIVE_INFINITY)
  if (typeof value === 'string') return between([...value].length, rest.minLength, rest.maxLength)
  if (Array.isArray(value))
    return between(value.length, rest.minItems, rest.maxItems) && value.every((one) => fits(items, one))
  if (!types.object!(value)) return true
  if (!(required as string[]).every((name) => Object.hasOwn(value as object, name))) return false
  return Object.entries(value as object).every(([name, one]) =>
    fits(
      Object.hasOwn(properties as object, name) ? (properties as Schema)[name] : additionalProperties,
      one,
    ),
  )
}

const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b)
