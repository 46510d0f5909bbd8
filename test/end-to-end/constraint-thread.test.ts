import { afterAll, expect, test } from 'vitest'
import { ConstraintThread } from '../../src/cli/constraint-maker.ts'
import { type Constraint, verdictOf } from '../../src/constrain/constraint.ts'

// No vocabulary is asked for, so there need not be a model.
const thread = new ConstraintThread('/nowhere')
afterAll(() => thread.close())

const patterns = (pattern: string): Constraint => ({
  kind: 'json',
  schema: { type: 'object', properties: { a: { type: 'string', pattern } } },
})

test('whether a constraint can be kept is told by another thread as it would be by this one', async () => {
  const literal: Constraint = { kind: 'text', pattern: { sequence: [{ literal: 'a' }, { json: false }] } }
  for (const constraint of [patterns('^a$'), patterns('(?=a)'), literal])
    expect(await thread.check(constraint)).toEqual(verdictOf(constraint))
})

test('a thread that ends over it is an error, and the next one finds a new thread', async () => {
  const lost = thread.check(patterns('^\\p{L}{50}$'))
  await thread.close()
  await expect(lost).rejects.toThrow(/thread that makes constraints ended/)
  expect(await thread.check(patterns('^a$'))).toEqual({ ok: true })
})
