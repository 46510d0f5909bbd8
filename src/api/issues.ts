import { z } from 'zod'
import { type FieldPlaces, fieldPlaces, meantField } from '../base/meant-field.ts'
import { unsupportedCode } from './fields.ts'

/** The first thing wrong with a body, as a client is told of it. */
export interface BodyIssue {
  /** The field, as a path: `messages.0.content`; undefined for the body as a whole. */
  param: string | undefined
  message: string
  code: 'invalid_value' | 'unknown_parameter' | typeof unsupportedCode
}

type Issue = z.core.$ZodIssue

/** `schema` is what the body was held to. */
export function firstIssue({ issues }: { readonly issues: readonly Issue[] }, schema: z.ZodType): BodyIssue {
  const found = issues.map((one) => innermost(one, []))
  // A name that is none may be what was meant by a field that is missing.
  const { issue, path } = found.find(({ issue }) => issue.code === 'unrecognized_keys') ?? found[0]!
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    const meant = meantField(path.join('.'), key, placesOf(schema))
    const message = meant === undefined ? 'Unknown field.' : `Unknown field; did you mean ${meant}?`
    return { param: [...path, key].join('.'), message, code: 'unknown_parameter' }
  }
  const unsupported = issue.code === 'custom' && issue.params?.code === unsupportedCode
  return {
    param: path.length === 0 ? undefined : path.join('.'),
    message: issue.message,
    code: unsupported ? unsupportedCode : 'invalid_value',
  }
}

const known = new WeakMap<z.ZodType, FieldPlaces>()

function placesOf(schema: z.ZodType): FieldPlaces {
  const places = known.get(schema) ?? fieldPlaces(wholeSchema(schema))
  known.set(schema, places)
  return places
}

/** With what lists hold that are checked in two steps: `list` of fields.ts. */
function wholeSchema(schema: z.core.$ZodType): z.core.JSONSchema.JSONSchema {
  return z.toJSONSchema(schema, {
    ...{ io: 'input', unrepresentable: 'any' },
    override: ({ zodSchema, jsonSchema }) => {
      const { def } = zodSchema._zod
      if (def.type === 'pipe' && def.out._zod.def.type !== 'transform')
        jsonSchema.allOf = [wholeSchema(def.out)]
    },
  })
}

/**
 * A union fails once per alternative; the one that got furthest into the value is the one that was meant. Where none
 * got into it, that is the only one of which it is a value, though one that breaks a rule.
 */
function innermost(issue: Issue, before: readonly PropertyKey[]): { issue: Issue; path: PropertyKey[] } {
  const path = [...before, ...issue.path]
  if (issue.code !== 'invalid_union') return { issue, path }
  const candidates = issue.errors
    .flatMap((issues) => issues.slice(0, 1))
    .map((inner) => innermost(inner, path))
  const furthest = candidates.reduce<{ issue: Issue; path: PropertyKey[] } | undefined>(
    (best, candidate) => (candidate.path.length > (best?.path.length ?? path.length) ? candidate : best),
    undefined,
  )
  return furthest ?? onlyOfItsKind(candidates) ?? { issue, path }
}

const otherKinds: ReadonlySet<Issue['code']> = new Set(['invalid_type', 'invalid_value'])
const brokenRules: ReadonlySet<Issue['code']> = new Set(['too_big', 'too_small', 'invalid_format', 'custom'])

function onlyOfItsKind<Candidate extends { issue: Issue }>(
  candidates: readonly Candidate[],
): Candidate | undefined {
  const [first, ...more] = candidates.filter(({ issue }) => !otherKinds.has(issue.code))
  return first !== undefined && more.length === 0 && brokenRules.has(first.issue.code) ? first : undefined
}
