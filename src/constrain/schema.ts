import { type ExpressionBudget, ExpressionRefusal, expressionWorkMax } from './expression.ts'
import { matchingString } from './expression-strings.ts'
import { callDepthMax, type Grammar, GrammarBuilder, returnNode, SchemaRefusal } from './grammar.ts'
import { integer, keyBeside, mark, maybeSpace, number, string } from './json-texts.ts'
import { formats, integerBetween } from './ranges.ts'

export type Compiled = { ok: true; grammar: Grammar } | { ok: false; path: string; message: string }

/** Of a schema as JSON, in UTF-8. */
const schemaBytesMax = 65_536
/** Values of enums, names of properties and branches in a schema together: any of them may have to be told apart at once. */
const alternativesMax = 2000
/** Of schemas inside one another. */
const schemaDepthMax = 64

/** They say something to people; nothing is enforced. */
const annotations = new Set(
  '$schema $id $comment $defs definitions title description default examples format deprecated readOnly writeOnly discriminator'.split(
    ' ',
  ),
)
const enforced = new Set(
  'type enum const anyOf oneOf allOf $ref properties required additionalProperties items minItems maxItems minLength maxLength pattern minimum maximum exclusiveMinimum exclusiveMaximum'.split(
    ' ',
  ),
)
const typeNames = ['object', 'array', 'string', 'integer', 'number', 'boolean', 'null'] as const
type TypeName = (typeof typeNames)[number]

type Schema = Readonly<Record<string, unknown>>

/**
 * The grammar of all JSON texts that a schema allows and that are written in one way: properties in the order
 * of the schema, none that it does not name unless additionalProperties says so, values of enum and const compact.
 * Without a schema: any object. A keyword that is neither enforced nor an annotation is refused with its path; `loose`
 * reads over it.
 */
export function compileSchema(schema: unknown, loose = false): Compiled {
  try {
    if (schema !== undefined && Buffer.byteLength(JSON.stringify(schema)) > schemaBytesMax)
      throw new SchemaRefusal('', `A schema has at most ${schemaBytesMax} bytes.`)
    const builder = new GrammarBuilder()
    const compiler = new SchemaCompiler(schema ?? { type: 'object' }, builder, loose)
    const grammar = builder.finish(maybeSpace(builder, compiler.compile(returnNode)))
    if (grammar.heights[grammar.start]! >= callDepthMax)
      throw new SchemaRefusal('', 'No JSON value fits: what it requires is impossible or has no end.')
    return { ok: true, grammar }
  } catch (error) {
    if (!(error instanceof SchemaRefusal)) throw error
    return { ok: false, path: error.path, message: error.message }
  }
}

/** Builds the values that fit one schema into a grammar. */
export class SchemaCompiler {
  readonly #root: unknown
  readonly #grammar: GrammarBuilder
  readonly #loose: boolean
  readonly #budget: ExpressionBudget = { work: expressionWorkMax }
  readonly #references = new Map<string, number>()
  #any: number | undefined
  #depth = 0
  #alternatives = 0

  constructor(root: unknown, grammar: GrammarBuilder, loose = false) {
    this.#root = root
    this.#grammar = grammar
    this.#loose = loose
  }

  /** Such a value, then `next`. */
  compile(next: number): number {
    return this.#value(this.#root, '', next)
  }

  /** A value that fits, then `next`. */
  #value(schema: unknown, path: string, next: number): number {
    if (schema === true) return this.#called(this.#anything(), next)
    // Nothing fits: a node that leads nowhere.
    if (schema === false) return this.#grammar.node()
    if (!isObject(schema)) throw new SchemaRefusal(path, 'Expected a schema: an object or a boolean.')
    if (this.#depth === schemaDepthMax)
      throw new SchemaRefusal(path, `Schemas lie at most ${schemaDepthMax} deep inside one another.`)
    for (const keyword of Object.keys(schema)) {
      if (!this.#loose && !annotations.has(keyword) && !enforced.has(keyword))
        throw new SchemaRefusal(join(path, keyword), `The keyword ${keyword.slice(0, 64)} is not supported.`)
    }
    this.#depth++
    const start = this.#known(schema, path, next)
    this.#depth--
    return start
  }

  #known(schema: Schema, path: string, next: number): number {
    if (schema.$ref !== undefined) {
      this.#refuseBeside(schema, path, '$ref')
      return this.#called(this.#reference(schema.$ref, join(path, '$ref')), next)
    }
    for (const keyword of ['anyOf', 'oneOf', 'allOf'] as const) {
      if (schema[keyword] === undefined) continue
      this.#refuseBeside(schema, path, keyword)
      const branches = listOf(schema[keyword], join(path, keyword))
      this.#count(branches.length, join(path, keyword))
      if (keyword === 'allOf' && branches.length > 1)
        throw new SchemaRefusal(join(path, keyword), 'allOf is supported for a single schema only.')
      return this.#either(
        branches.map((branch, i) => this.#value(branch, join(path, `${keyword}.${i}`), next)),
      )
    }
    const types = typesOf(schema, path)
    for (const keyword of ['enum', 'const'] as const) {
      if (schema[keyword] === undefined) continue
      this.#refuseBeside(schema, path, keyword, 'type')
      const values = keyword === 'enum' ? listOf(schema.enum, join(path, 'enum')) : [schema.const]
      this.#count(values.length, join(path, keyword))
      const fitting = values.filter((value) => types?.some((type) => isOfType(value, type)) ?? true)
      return this.#either(fitting.map((value) => this.#grammar.literal(JSON.stringify(value), next)))
    }
    const wanted = types ?? impliedTypes(schema)
    if (wanted === undefined) return this.#called(this.#anything(), next)
    return this.#either(wanted.map((type) => this.#ofType(type, schema, path, next)))
  }

  #refuseBeside(schema: Schema, path: string, keyword: string, ...allowed: string[]): void {
    if (this.#loose) return
    for (const other of Object.keys(schema)) {
      if (other !== keyword && !annotations.has(other) && !allowed.includes(other))
        throw new SchemaRefusal(join(path, other), `${other} is not supported beside ${keyword}.`)
    }
  }

  #count(alternatives: number, path: string): void {
    this.#alternatives += alternatives
    if (this.#alternatives <= alternativesMax) return
    const message = `Values, properties and branches of a schema are at most ${alternativesMax} together: shorten the lists.`
    throw new SchemaRefusal(path, message)
  }

  #ofType(type: TypeName, schema: Schema, path: string, next: number): number {
    const grammar = this.#grammar
    switch (type) {
      case 'object':
        return this.#object(schema, path, next)
      case 'array':
        return this.#array(schema, path, next)
      case 'string':
        return this.#string(schema, path, next)
      case 'integer':
        return this.#integer(schema, path, next)
      case 'number':
        for (const keyword of numberBounds) {
          if (schema[keyword] !== undefined && !this.#loose)
            throw new SchemaRefusal(join(path, keyword), `${keyword} is supported for the type integer only.`)
        }
        return number(grammar, next)
      case 'boolean':
        return this.#either([grammar.literal('true', next), grammar.literal('false', next)])
      case 'null':
        return grammar.literal('null', next)
    }
  }

  #string(schema: Schema, path: string, next: number): number {
    const grammar = this.#grammar
    const [least, most] = boundsOf(schema, path, 'minLength', 'maxLength')
    const format = formats.get(String(schema.format))
    if (format !== undefined) {
      const { minLength, maxLength, pattern } = schema
      const beside = { ...(least > 0 && { minLength }), maxLength, pattern }
      for (const [keyword, value] of Object.entries(beside)) {
        if (value !== undefined) this.#refuseBeside({ [keyword]: value }, path, 'format')
      }
      return grammar.literal('"', format(grammar, grammar.literal('"', next)))
    }
    if (schema.pattern === undefined) return string(grammar, next, least, most)
    try {
      if (typeof schema.pattern !== 'string') throw new ExpressionRefusal('Expected a regular expression.')
      return matchingString(grammar, next, schema.pattern, this.#budget, least, most)
    } catch (error) {
      if (!(error instanceof ExpressionRefusal)) throw error
      if (this.#loose) return string(grammar, next, least, most)
      throw new SchemaRefusal(join(path, 'pattern'), error.message)
    }
  }

  #integer(schema: Schema, path: string, next: number): number {
    const given = numberBounds.filter((keyword) => schema[keyword] !== undefined)
    for (const keyword of given) {
      if (typeof schema[keyword] !== 'number')
        throw new SchemaRefusal(join(path, keyword), 'Expected a number.')
    }
    if (given.length === 0) return integer(this.#grammar, next)
    const bound = (keyword: (typeof numberBounds)[number], absent: number) =>
      (schema[keyword] as number) ?? absent
    const low = Math.max(
      Math.ceil(bound('minimum', -integerMost)),
      Math.floor(bound('exclusiveMinimum', -integerMost - 1)) + 1,
    )
    const high = Math.min(
      Math.floor(bound('maximum', integerMost)),
      Math.ceil(bound('exclusiveMaximum', integerMost + 1)) - 1,
    )
    const [least, most] = [Math.max(low, -integerMost), Math.min(high, integerMost)]
    if (least > most)
      throw new SchemaRefusal(join(path, given[0]!), 'No whole number lies between the bounds.')
    return integerBetween(this.#grammar, BigInt(least), BigInt(most), next)
  }

  #object(schema: Schema, path: string, next: number): number {
    const grammar = this.#grammar
    const { properties = {}, required = [] } = schema
    if (!isObject(properties)) throw new SchemaRefusal(join(path, 'properties'), 'Expected an object.')
    const needed = listOf(required, join(path, 'required'), 0)
    // A schema that names no property leaves the object free, as the whole language does.
    const rest = schema.additionalProperties ?? schema.properties === undefined
    const members = Object.entries(properties).map(([name, value]) => ({
      name,
      isRequired: needed.includes(name),
      value,
      at: join(path, `properties.${name}`),
    }))
    for (const [i, name] of needed.entries()) {
      if (typeof name !== 'string')
        throw new SchemaRefusal(join(path, `required.${i}`), 'Expected the name of a property.')
      if (Object.hasOwn(properties, name) || members.some((member) => member.name === name)) continue
      members.push({ name, isRequired: true, value: rest, at: join(path, 'additionalProperties') })
    }
    this.#count(members.length, join(path, 'properties'))
    const close = grammar.literal('}', next)
    // What may follow a property, and what may follow the brace.
    let behind = close
    let first = close
    if (rest !== false) {
      behind = grammar.node()
      grammar.empty(behind, close)
      const value = this.#value(rest, join(path, 'additionalProperties'), behind)
      const names = members.map(({ name }) => name)
      const key = keyBeside(grammar, names, mark(grammar, ':', value))
      grammar.empty(behind, mark(grammar, ',', key))
      first = this.#either([key, close])
    }
    for (const { name, isRequired, value, at } of members.reverse()) {
      const key = grammar.literal(JSON.stringify(name), mark(grammar, ':', this.#value(value, at, behind)))
      const following = mark(grammar, ',', key)
      behind = isRequired ? following : this.#either([following, behind])
      first = isRequired ? key : this.#either([key, first])
    }
    return grammar.literal('{', first)
  }

  #array(schema: Schema, path: string, next: number): number {
    const grammar = this.#grammar
    const [least, most] = boundsOf(schema, path, 'minItems', 'maxItems')
    const close = grammar.literal(']', next)
    if (most === 0) return grammar.literal('[', close)
    // One rule for all items, so that bounds cost a node or two each and not a copy of the schema.
    const item = this.#ruleOf(schema.items ?? true, join(path, 'items'))
    let behind = close
    if (most === undefined) {
      behind = grammar.node()
      grammar.empty(behind, close)
      grammar.empty(behind, mark(grammar, ',', this.#called(item, behind)))
    }
    for (let count = (most ?? Math.max(1, least)) - 1; count > 0; count--) {
      const following = mark(grammar, ',', this.#called(item, behind))
      behind = count < least ? following : this.#either([following, close])
    }
    const first = this.#called(item, behind)
    return grammar.literal('[', least > 0 ? first : this.#either([first, close]))
  }

  #reference(reference: unknown, path: string): number {
    if (typeof reference !== 'string' || !/^#(\/|$)/.test(reference))
      throw new SchemaRefusal(path, "Expected a place in this schema, as '#/$defs/name'.")
    const known = this.#references.get(reference)
    if (known !== undefined) return known
    let target: unknown = this.#root
    for (const part of reference.split('/').slice(1)) {
      const key = part.replaceAll('~1', '/').replaceAll('~0', '~')
      const holds = (isObject(target) || Array.isArray(target)) && Object.hasOwn(target, key)
      target = holds ? (target as Schema)[key] : undefined
    }
    if (target === undefined) throw new SchemaRefusal(path, `There is no ${reference.slice(0, 100)} here.`)
    const { id, begin } = this.#grammar.rule()
    this.#references.set(reference, id)
    begin(this.#value(target, reference.slice(2).replaceAll('/', '.'), returnNode))
    return id
  }

  #ruleOf(schema: unknown, path: string): number {
    if (schema === true) return this.#anything()
    const { id, begin } = this.#grammar.rule()
    begin(this.#value(schema, path, returnNode))
    return id
  }

  /** Any JSON value. */
  #anything(): number {
    if (this.#any !== undefined) return this.#any
    const { id, begin } = this.#grammar.rule()
    this.#any = id
    const types = typeNames.filter((type) => type !== 'integer')
    begin(this.#either(types.map((type) => this.#ofType(type, {}, '', returnNode))))
    return id
  }

  #called(rule: number, next: number): number {
    const start = this.#grammar.node()
    this.#grammar.call(start, rule, next)
    return start
  }

  #either(starts: readonly number[]): number {
    const start = this.#grammar.node()
    for (const one of starts) this.#grammar.empty(start, one)
    return start
  }
}

const numberBounds = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const
/** Whole numbers beyond it are not told apart by readers of JSON: with a bound, none is written. */
const integerMost = Number.MAX_SAFE_INTEGER - 1

function isObject(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function join(path: string, more: string): string {
  return path === '' ? more : `${path}.${more}`
}

function listOf(value: unknown, path: string, least = 1): readonly unknown[] {
  if (Array.isArray(value) && value.length >= least) return value
  throw new SchemaRefusal(path, least === 0 ? 'Expected a list.' : 'Expected a list of at least one.')
}

function typesOf({ type }: Schema, path: string): readonly TypeName[] | undefined {
  if (type === undefined) return undefined
  const names = listOf(typeof type === 'string' ? [type] : type, join(path, 'type'))
  for (const name of names) {
    if (!typeNames.includes(name as TypeName))
      throw new SchemaRefusal(join(path, 'type'), `Expected one of ${typeNames.join(', ')}.`)
  }
  return names as readonly TypeName[]
}

/** A schema without a type that bounds objects, arrays or strings is read as one of those. */
function impliedTypes(schema: Schema): readonly TypeName[] | undefined {
  const has = (...keywords: string[]) => keywords.some((keyword) => schema[keyword] !== undefined)
  if (has('properties', 'required', 'additionalProperties')) return ['object']
  if (has('items', 'minItems', 'maxItems')) return ['array']
  if (has('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum')) return ['integer']
  return has('minLength', 'maxLength', 'pattern') ? ['string'] : undefined
}

function isOfType(value: unknown, type: TypeName): boolean {
  if (type === 'integer') return Number.isInteger(value)
  if (type === 'null') return value === null
  if (type === 'array') return Array.isArray(value)
  return type === 'object' ? isObject(value) : typeof value === type
}

function boundsOf(schema: Schema, path: string, low: string, high: string): [number, number | undefined] {
  const bound = (keyword: string): number | undefined => {
    const value = schema[keyword]
    if (value === undefined || (Number.isSafeInteger(value) && (value as number) >= 0)) return value as number
    throw new SchemaRefusal(join(path, keyword), 'Expected a whole number, at least 0.')
  }
  const least = bound(low) ?? 0
  const most = bound(high)
  if (most !== undefined && most < least)
    throw new SchemaRefusal(join(path, high), `It is less than ${low}: no value fits.`)
  return [least, most]
}
