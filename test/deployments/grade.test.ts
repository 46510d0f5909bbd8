import { expect, test } from 'vitest'
import { faultOfExpectation, grade } from '../../src/control/deployments/grade.ts'

const isRight = (...args: Parameters<typeof grade>) => grade(...args).right

test('an answer is judged by its text, by a pattern, or by a JSON schema', () => {
  expect(isRight({ exact: 'Paris' }, ' Paris\n')).toBe(true)
  expect(isRight({ exact: 'Paris' }, 'Paris.')).toBe(false)
  expect(isRight({ regex: '\\bParis\\b' }, 'It is Paris.')).toBe(true)
  expect(isRight({ regex: '^Paris$' }, 'It is Paris.')).toBe(false)
  const jsonSchema = { type: 'object', properties: { age: { type: 'integer' } }, required: ['age'] }
  expect(isRight({ jsonSchema }, '{"age": 3}')).toBe(true)
  expect(grade({ jsonSchema }, '{"age": "3"}')).toMatchObject({
    right: false,
    why: expect.stringContaining('age'),
  })
  expect(isRight({ jsonSchema }, 'three')).toBe(false)
})

test('a pattern that would take years is given up and counts as wrong, and one that is none is refused', () => {
  expect(grade({ regex: '^(a+)+$' }, `${'a'.repeat(50)}b`)).toMatchObject({ right: false })
  expect(faultOfExpectation({ regex: '(' })).toContain('Invalid regular expression')
  expect(faultOfExpectation({ regex: 'a|b' })).toBeUndefined()
})
