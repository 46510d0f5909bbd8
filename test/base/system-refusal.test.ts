import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'
import { expect, test } from 'vitest'
import { isNoRoom, systemRefusal, UserError } from '../../src/base/errors.ts'

function thrown(act: () => void): unknown {
  try {
    act()
  } catch (error) {
    return error
  }
  throw new Error('nothing was thrown')
}

test.skipIf(!existsSync('/dev/full'))('a full disk is told as such, and may pass', () => {
  const file = openSync('/dev/full', 'w')
  const error = thrown(() => writeSync(file, 'x'))
  closeSync(file)
  const refusal = systemRefusal(error, 'The checkpoint could not be written')
  expect(refusal?.message).toMatch(/^The checkpoint could not be written: ENOSPC/)
  expect(refusal?.fix).toMatch(/Free some space/)
  expect(refusal?.mayPass).toBe(true)
  expect(systemRefusal(error)?.message).toMatch(/^The disk is full: /)
})

test('a database whose disk is full is told the same way, also where it was wrapped', () => {
  const error = Object.assign(new Error('database or disk is full'), { code: 'SQLITE_FULL' })
  expect(systemRefusal(error)).toMatchObject({
    message: 'The disk is full: database or disk is full.',
    fix: 'Free some space and try again.',
    mayPass: true,
  })
  expect(isNoRoom(new UserError('Usage was not written.', { cause: error }))).toBe(true)
  expect(isNoRoom(new UserError('Usage was not written.'))).toBe(false)
})

test('other errors stay what they are', () => {
  expect(systemRefusal(new TypeError('no'))).toBeUndefined()
  expect(systemRefusal(thrown(() => readFileSync('/nowhere/at/all')))).toBeUndefined()
  expect(systemRefusal('text')).toBeUndefined()
})
