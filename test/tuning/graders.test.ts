import { expect, test } from 'vitest'
import { factorsOf, rewardsOf, tuningGrader } from '../../src/api/tuning-graders.ts'

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
