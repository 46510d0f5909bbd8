import { z } from 'zod'

/** Fields that many nouns share. Texts never hold U+0000: no database of ours stores it. */
export const storableText = (max: number, min = 0) =>
  z
    .string()
    .min(min)
    .max(max)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is the one that is refused
    .regex(/^[^\u0000]*$/, 'The character U+0000 cannot be stored.')

export const nameCharactersMax = 63

/** Names of things: what is easy to type in a shell and fits into URLs, labels and file names. */
export const nounName = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/,
    'A name has 1 to 63 of a-z, 0-9, dot, dash and underscore, and begins and ends with a letter or digit.',
  )

/** `job_` and 26 characters that sort by time. */
export const nounId = z.string()

/** Unix milliseconds. */
export const time = z.int()

/** `version` of what a change was decided on: it is refused when somebody else has changed that since. */
export const expectedVersion = z.int().min(1).optional()

/** Whole numbers in the query part of a URL. */
export const queryInteger = (min: number, max: number) =>
  z.coerce.number<string | number>().int().min(min).max(max)

export const pageLimitDefault = 50
export const pageLimitMax = 500

/** The query of every list. Add filters by `pageQuery.extend({...})`. */
export const pageQuery = z.strictObject({
  limit: queryInteger(1, pageLimitMax).default(pageLimitDefault),
  /** `next` of the page before. */
  cursor: z.string().min(1).max(2000).optional(),
})

/** The answer of every list: `next` is null on the last page. */
export const pageOf = <Item extends z.ZodType>(item: Item) =>
  z.object({ items: z.array(item), next: z.string().nullable() })

/** `yes` and `no` in the query part of a URL. */
export const queryFlag = z.enum(['true', 'false'])
