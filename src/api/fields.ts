import { z } from 'zod'
import { ownValue } from '../base/own.ts'
import type { RequestLimits } from './limits.ts'

/** A field that may be absent or, as OpenAI's clients send it, null; both read as undefined. */
export function maybe<Inner extends z.ZodType>(inner: Inner) {
  return inner.nullish().transform((value) => value ?? undefined)
}

/**
 * A list of at most `max` items. Its length is checked before its items are: a body may hold a million wrong
 * ones, and each would become an issue.
 */
export function list<Inner extends z.ZodType>(inner: Inner, max: number) {
  return z.array(z.unknown()).max(max).pipe(z.array(inner))
}

/** The same for an object's entries. */
export function entries<Key extends z.ZodString, Inner extends z.ZodType>(
  key: Key,
  inner: Inner,
  max: number,
) {
  return z
    .record(z.string(), z.unknown())
    .refine((value) => Object.keys(value).length <= max, { error: `At most ${max} entries.`, abort: true })
    .pipe(z.record(key, inner))
}

/** Issues with this code in `params` become errors that say "not supported" instead of "invalid". */
export const unsupportedCode = 'unsupported_parameter'

/** A field that OpenAI has and this server does not: any value but null is refused with `why`. */
export function unsupported(why: string) {
  return z
    .unknown()
    .optional()
    .superRefine((value, context) => {
      if (value !== undefined && value !== null) {
        context.addIssue({ code: 'custom', message: why, params: { code: unsupportedCode } })
      }
    })
}

/** A field with one value that changes nothing here; any other asks for something that is not done. */
export function only<Value extends string | boolean>(values: readonly Value[], why: string) {
  return z
    .unknown()
    .optional()
    .superRefine((value, context) => {
      if (value !== undefined && value !== null && !values.includes(value as Value)) {
        context.addIssue({ code: 'custom', message: why, params: { code: unsupportedCode } })
      }
    })
}

const contentPart = z.looseObject({ type: z.string() }, 'Expected a content part: an object with a type.')
const partsMax = 4096

/** A text, or parts that become one, a line each: which types they may have, and which field of each type holds its text. */
export function textOrParts(fields: Readonly<Record<string, string>>) {
  const parts = list(contentPart, partsMax).transform((items, context): string => {
    const lines: string[] = []
    for (const [index, part] of items.entries()) {
      const field = ownValue(fields, part.type)
      const text = field && part[field]
      if (field === undefined) {
        context.addIssue({
          code: 'custom',
          path: [index, 'type'],
          message: `This model reads text only: content parts have the type ${Object.keys(fields).join(' or ')}.`,
          params: { code: unsupportedCode },
        })
      } else if (typeof text !== 'string') {
        context.addIssue({ code: 'custom', path: [index, field], message: 'Expected a string.' })
      } else lines.push(text)
    }
    return lines.join('\n')
  })
  return z.union([z.string(), parts], 'Expected a text or a list of content parts.')
}

/** Held to the schema that `choose` takes for it, whose issues are told; a union would tell those of any of its schemas. */
export function chosen<Schema extends z.ZodType>(choose: (given: unknown) => Schema) {
  return z.unknown().transform((given, context): z.output<Schema> => {
    const parsed = choose(given).safeParse(given)
    if (parsed.success) return parsed.data
    for (const issue of parsed.error.issues) context.addIssue({ ...issue } as never)
    return z.NEVER
  })
}

const shortName = z.string().regex(/^[\w-]{1,64}$/, 'Letters, digits, _ and -, at most 64.')

/** A function that a model may call. */
export const functionFields = {
  name: shortName,
  description: maybe(z.string()),
  parameters: maybe(z.record(z.string(), z.unknown())),
  strict: maybe(z.boolean()),
}

/** A schema that a text is held to. */
export const schemaFields = {
  name: shortName,
  description: maybe(z.string()),
  schema: maybe(z.record(z.string(), z.unknown())),
  // Every schema is kept, whether or not the client insists.
  strict: maybe(z.boolean()),
}

const count = (max = Number.MAX_SAFE_INTEGER) => z.int().min(0).max(max)
const wellFormed = (text: string): boolean => !/\p{Surrogate}/u.test(text)

/** Where one choice goes on: the tokens so far, and the code units of text that the client has of them. */
const continuation = z.strictObject({
  tokens: z.array(z.int().min(0)),
  characters: z.int().min(0),
  finished: z.boolean().optional(),
})

export type Continuation = z.output<typeof continuation>

/** What the text is held to. Which schemas can be kept is for the engine's side to say. */
const responseFormat = z.discriminatedUnion(
  'type',
  [
    z.strictObject({ type: z.literal('text') }),
    z.strictObject({ type: z.literal('json_object') }),
    z.strictObject({
      type: z.literal('json_schema'),
      json_schema: z.strictObject(schemaFields),
    }),
  ],
  'Expected a type of text, json_object or json_schema.',
)

/** The fields that shape sampling and its end, the same for completions and chat. */
export function generationFields(limits: RequestLimits) {
  const stop = z
    .string()
    .min(1, 'A stop string has at least one character.')
    .max(limits.stopCharactersMax)
    .refine(wellFormed, 'A stop string is whole characters, without lone surrogates.')
  return {
    model: z.string().min(1),
    n: maybe(z.int().min(1).max(limits.choicesMax)),
    stream: maybe(z.boolean()),
    stream_options: maybe(
      z.strictObject({ include_usage: maybe(z.boolean()), include_obfuscation: maybe(z.boolean()) }),
    ),
    temperature: maybe(z.number().min(0).max(2)),
    top_p: maybe(z.number().gt(0).max(1)),
    presence_penalty: maybe(z.number().min(-2).max(2)),
    frequency_penalty: maybe(z.number().min(-2).max(2)),
    // 64-bit seeds lose their last bits in JSON.parse; what is left is still the same each time.
    seed: maybe(z.number().refine(Number.isInteger, 'Expected an integer.')),
    stop: maybe(
      z.union([stop, list(stop, limits.stopStringsMax)], 'Expected a string or a list of strings.'),
    ),
    logit_bias: maybe(
      entries(
        z.string().regex(/^\d{1,10}$/, 'Keys are token ids.'),
        z.number().min(-100).max(100),
        limits.logitBiasesMax,
      ),
    ),
    user: maybe(z.string()),
    response_format: maybe(responseFormat),
    // Beyond OpenAI, as other open servers name them.
    top_k: maybe(z.int().min(-1).max(Number.MAX_SAFE_INTEGER)),
    min_p: maybe(z.number().min(0).max(1)),
    repetition_penalty: maybe(z.number().gt(0).max(10)),
    // The same as llama.cpp and Ollama name it; theirs looks at the last tokens alone.
    repeat_penalty: maybe(z.number().gt(0).max(10)),
    min_tokens: maybe(count()),
    ignore_eos: maybe(z.boolean()),
    stop_token_ids: maybe(list(count(), limits.stopTokensMax)),
    priority: maybe(count(limits.priorityMax)),
    cache_salt: maybe(z.string().min(1).max(256)),
    // Our own.
    pin_prefix_seconds: maybe(z.number().gt(0).max(limits.pinSecondsMax)),
    explain: maybe(z.boolean()),
    // For gateways alone: how far each choice got on a server that is gone; null for one that had not begun.
    ropeway_continue: maybe(list(continuation.nullable(), limits.sequencesMax)),
  }
}

/** What completions and chat have in common after parsing. */
export type GenerationFields = z.output<z.ZodObject<ReturnType<typeof generationFields>>>

/** Rules between fields. */
export function checkTogether(
  body: Pick<
    Partial<GenerationFields>,
    'stream' | 'stream_options' | 'repetition_penalty' | 'repeat_penalty'
  >,
  context: z.RefinementCtx,
): void {
  const { repetition_penalty, repeat_penalty = repetition_penalty } = body
  if (repetition_penalty !== undefined && repeat_penalty !== repetition_penalty) {
    const message = 'It is another name of repetition_penalty, which says something else here.'
    context.addIssue({ code: 'custom', path: ['repeat_penalty'], message })
  }
  if (body.stream_options !== undefined && body.stream !== true) {
    context.addIssue({ code: 'custom', path: ['stream_options'], message: 'Only with stream: true.' })
  }
}
