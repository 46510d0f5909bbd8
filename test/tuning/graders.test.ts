import { expect, test } from 'vitest'
import { firstIssue } from '../../src/api/issues.ts'
import { factorsOf, rewardsOf, tuningGrader } from '../../src/api/tuning-graders.ts'
import { rewardsFields } from '../../src/train/rollouts/reward-fields.ts'

const names = ['right', 'form', 'x_1']

test.each([
  ['right', { right: 1 }],
  ['0.8 * right + 0.2*form', { right: 0.8, form: 0.2 }],
  ['-right + form / 4 - x_1 * 2', { right: -1, form: 0.25, x_1: -2 }],
  ['right + right', { right: 2 }],
])('the formula %s is a sum with factors', (formula, factors) => {
  expect(Object.fromEntries(factorsOf(formula, names)!)).toEqual(factors)
})

test.each([
  '',
  'max(right, form)',
  'right * form',
  'right + 1',
  'wrong',
  'right form',
  'right / 0',
  '(right)',
  'right +',
])('the formula %j is none', (formula) => {
  expect(factorsOf(formula, names)).toBeUndefined()
})

const check = {
  ...{ type: 'string_check', operation: 'eq', name: 'same' },
  ...{ input: '{{ sample.output_text }}', reference: '{{ item.answer }}' },
} as const
const multi = (calculate_output: string) => ({
  ...{ type: 'multi', name: 'both', calculate_output },
  graders: { a: check, _a: { ...check, operation: 'ne' } },
})
const issueOf = (grader: object) => firstIssue(tuningGrader.safeParse(grader).error!, tuningGrader)

test.each(['a - a', '0 * a', '10000000 * a', 'a + 2000000 * _a'])(
  'the formula %s gives no reward that a job file takes, and is refused for that',
  (formula) => {
    expect(issueOf(multi(formula))).toMatchObject({
      ...{ param: 'calculate_output', message: expect.stringMatching(/factor .* 1000000/) },
    })
  },
)

test('a place that nothing fills is refused by the field that has it', () => {
  const strange = { ...check, input: 'is {{ sample.foo }}' }
  const message = expect.stringMatching(/^nothing fills the place \{\{ sample\.foo \}\}\. There are/)
  expect(issueOf(strange)).toMatchObject({ param: 'input', message })
  expect(issueOf({ ...multi('a'), graders: { a: strange } })).toMatchObject({
    ...{ param: 'graders.a.input', message },
  })
})

test('no two graders become one: each keeps the name that the formula has for it', () => {
  const rewards = rewardsOf(tuningGrader.parse(multi('a + 2 * _a')))
  expect(rewardsFields.parse(rewards).map(({ name, weight }) => [name, weight])).toEqual([
    ['a', 1],
    ['_a', 2],
  ])
})

test('graders become rewards of a job file, those that the formula leaves out none', () => {
  const check = { name: 'Right answer?', input: '{{ sample.output_text }}', reference: '{{ item.answer }}' }
  const single = tuningGrader.parse({ type: 'string_check', operation: 'eq', ...check })
  const { name: _, ...texts } = check
  expect(rewardsOf(single)).toEqual([
    { name: 'Right_answer_', kind: 'string_check', operation: 'eq', weight: 1, ...texts },
  ])
  const multi = tuningGrader.parse({
    ...{ type: 'multi', name: 'both', calculate_output: '0.5 * alike' },
    graders: {
      alike: { type: 'text_similarity', evaluation_metric: 'rouge_l', ...check },
      unused: { type: 'string_check', operation: 'ne', ...check },
    },
  })
  expect(rewardsOf(multi)).toEqual([
    { name: 'alike', kind: 'text_similarity', metric: 'rouge_l', weight: 0.5, ...texts },
  ])
})
