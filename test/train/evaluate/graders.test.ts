import { expect, test } from 'vitest'
import { accepts, exact, graderOf, limited, matches } from '../../../src/train/evaluate/graders.ts'

test('an exact match forgives white space around the text and nothing else', () => {
  expect(exact(' 42\n', '42')).toBe(true)
  expect(exact('42.', '42')).toBe(false)
  expect(exact('', '42')).toBe(false)
})

test('a pattern with a group compares what the group holds with the expected answer', () => {
  const grade = matches(String.raw`####\s*(-?\d+)`, 'evaluate.tasks.0.pattern')
  expect(grade('so it is #### 12', 'because\n#### 12')).toBe(true)
  expect(grade('so it is #### 13', 'because\n#### 12')).toBe(false)
  expect(grade('twelve', '#### 12')).toBe(false)
  // Records hold the bare result as often as a text that the pattern is found in.
  expect(grade('so it is #### 12', ' 12\n')).toBe(true)
  expect(grade('so it is #### 13', '12')).toBe(false)
  expect(grade('so it is #### 13', '')).toBe(true)
  const either = matches(String.raw`unknown|= (\d+)`, 'f')
  expect([either('unknown', '= 4'), either('= 4', 'unknown'), either('unknown', 'unknown')]).toEqual([
    false,
    false,
    true,
  ])
  expect(matches('^[ab]+$', 'f')('abba', '')).toBe(true)
  expect(matches('^[ab]+$', 'f')('abbac', '')).toBe(false)
  expect(() => matches('(', 'evaluate.tasks.0.pattern')).toThrow(/evaluate\.tasks\.0\.pattern is no regular/)
})

test('an answer has to be JSON that the schema accepts, alone or in a fence', () => {
  const schema = {
    type: 'object',
    properties: { name: { type: 'string', minLength: 1 }, count: { type: 'integer', minimum: 0 } },
    required: ['name', 'count'],
    additionalProperties: false,
  }
  const grade = accepts(schema, 'evaluate.tasks.0.schema')
  expect(grade('{"name": "rope", "count": 2}', '')).toBe(true)
  expect(grade('```json\n{"name": "rope", "count": 2}\n```', '')).toBe(true)
  expect(grade('{"name": "rope"}', '')).toBe(false)
  expect(grade('{"name": "rope", "count": -1}', '')).toBe(false)
  expect(grade('{"name": "rope", "count": 2, "more": 1}', '')).toBe(false)
  expect(grade('name: rope', '')).toBe(false)
})

test('a rule that does not come to an end on an answer is given up, by the name of its field', () => {
  const many = String.raw`^(\w+\s?)*$`
  const text = 'the rope never stops and the cabin joins and leaves it while it moves, always'
  const schema = { type: 'string', pattern: many }
  const slow = limited(matches(many, 'rewards.0.pattern'), 'rewards.0.pattern', 200)
  expect(slow([{ answer: 'the rope', expected: '' }])).toEqual([true])
  expect(() => slow([{ answer: text, expected: '' }])).toThrow(
    /^The field rewards\.0\.pattern did not come to an end within 0\.2 seconds .* "the rope never/,
  )
  const json = limited(accepts(schema, 'rewards.1.schema'), 'rewards.1.schema', 200)
  expect(() => json([{ answer: JSON.stringify(text), expected: '' }])).toThrow(/rewards\.1\.schema did not/)
})

test('answers have time of their own, and are graded in their order', () => {
  const busy = (answer: string) => {
    for (const endMs = performance.now() + 30; performance.now() < endMs; );
    return answer === 'a'
  }
  const answers = [...'abaabaab'].map((answer) => ({ answer, expected: '' }))
  expect(limited(busy, 'f', 100)(answers)).toEqual(answers.map(({ answer }) => answer === 'a'))
  const grade = graderOf({ kind: 'regex', pattern: '^a' }, 'evaluate.tasks.0')
  expect(grade(answers)).toEqual(answers.map(({ answer }) => answer === 'a'))
})
