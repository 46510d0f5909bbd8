/**
 * Graders of OpenAI's reinforcement fine-tuning as they go over the wire (api-reference/graders), those that need neither a
 * second model nor a place to run foreign code, and what they are in a job file.
 */
import { z } from 'zod'
import { knownPlaces, strangePlace } from '../base/text-places.ts'
import { storableText } from './control/fields.ts'

const template = storableText(20_000, 1).refine((text) => strangePlace(text) === undefined, {
  error: ({ input }) => `nothing fills the place {{ ${strangePlace(String(input))} }}. ${knownPlaces}`,
})
const name = storableText(64, 1)

const stringCheck = z.strictObject({
  type: z.literal('string_check'),
  name,
  input: template,
  reference: template,
  operation: z.enum(['eq', 'ne', 'like', 'ilike']),
})

const textSimilarity = z.strictObject({
  type: z.literal('text_similarity'),
  name,
  input: template,
  reference: template,
  /** OpenAI's cosine, bleu and meteor are not there. */
  evaluation_metric: z.enum([
    'fuzzy_match',
    'gleu',
    'rouge_1',
    'rouge_2',
    'rouge_3',
    'rouge_4',
    'rouge_5',
    'rouge_l',
  ]),
})

/** What a reward of a job file may weigh. */
const factorMax = 1_000_000

const single = z.discriminatedUnion('type', [stringCheck, textSimilarity])
type SingleGrader = z.output<typeof single>

const multi = z
  .strictObject({
    type: z.literal('multi'),
    name,
    graders: z
      .record(z.string().regex(/^[A-Za-z_]\w{0,63}$/, 'a name that the formula can hold'), single)
      .refine(
        (graders) => Object.keys(graders).length >= 1 && Object.keys(graders).length <= 32,
        '1 to 32 graders',
      ),
    /** A sum of graders with factors, such as `0.8 * right + 0.2 * form`; OpenAI's other functions are not there. */
    calculate_output: z.string().min(1).max(2000),
  })
  .refine(
    ({ graders, calculate_output }) => factorsOf(calculate_output, Object.keys(graders)) !== undefined,
    {
      path: ['calculate_output'],
      error:
        'expected a sum of graders by their names, each with a factor at most, such as 0.8 * right + 0.2 * form',
    },
  )
  .refine(({ graders, calculate_output }) => canWeigh(factorsOf(calculate_output, Object.keys(graders))), {
    path: ['calculate_output'],
    error: `expected a factor for one of the graders at least, of ${factorMax} at most`,
  })

export const tuningGrader = z.discriminatedUnion('type', [stringCheck, textSimilarity, multi])
export type TuningGrader = z.output<typeof tuningGrader>

/** A formula that is none is refused for that. */
function canWeigh(factors: ReadonlyMap<string, number> | undefined): boolean {
  if (factors === undefined) return true
  const values = [...factors.values()]
  return values.some((factor) => factor !== 0) && values.every((factor) => Math.abs(factor) <= factorMax)
}

const term = /([+-]?)(?:(\d+(?:\.\d+)?)\*)?([A-Za-z_]\w*)(?:([*/])(\d+(?:\.\d+)?))?/y

/** The factor of each name in a sum; undefined for what is no such sum, or names what is not there. */
export function factorsOf(formula: string, names: readonly string[]): Map<string, number> | undefined {
  const text = formula.replace(/\s+/g, '')
  const factors = new Map<string, number>()
  for (term.lastIndex = 0; term.lastIndex < text.length; ) {
    const isFirst = term.lastIndex === 0
    const found = term.exec(text)
    if (found === null) return undefined
    const [, sign, before, named, operator, after] = found
    if ((sign === '' && !isFirst) || !names.includes(named!)) return undefined
    const behind = Number(after ?? 1)
    const factor = Number(before ?? 1) * (operator === '/' ? 1 / behind : behind) * (sign === '-' ? -1 : 1)
    factors.set(named!, (factors.get(named!) ?? 0) + factor)
  }
  const values = [...factors.values()]
  return values.length > 0 && values.every((factor) => Number.isFinite(factor)) ? factors : undefined
}

/** As the field `rewards` of a job file has them. */
export function rewardsOf(grader: TuningGrader): Record<string, unknown>[] {
  if (grader.type !== 'multi') return [rewardOf(grader, grader.name, 1)]
  const factors = factorsOf(grader.calculate_output, Object.keys(grader.graders))!
  return Object.entries(grader.graders).flatMap(([key, one]) => {
    const factor = factors.get(key) ?? 0
    return factor === 0 ? [] : [rewardOf(one, key, factor)]
  })
}

function rewardOf(grader: SingleGrader, named: string, weight: number): Record<string, unknown> {
  const { input, reference } = grader
  // Names of a formula stay as they are, so that no two become one.
  const name = named.replace(/[^A-Za-z0-9_-]/g, '_').replace(/^-+/, '') || 'grader'
  return grader.type === 'string_check'
    ? { name, kind: 'string_check', input, reference, operation: grader.operation, weight }
    : { name, kind: 'text_similarity', input, reference, metric: grader.evaluation_metric, weight }
}
