import { expect, test } from 'vitest'
import { piecesOf } from '../../src/train/corpus.ts'

test('a long text is cut behind line ends, loses nothing, and a line that is longer than a piece stays whole', () => {
  const text = `one\ntwo\n${'x'.repeat(30)}\nthree\n\nfour`
  const pieces = [...piecesOf(text, 8)]
  expect(pieces.join('')).toBe(text)
  expect(pieces).toEqual(['one\ntwo\n', `${'x'.repeat(30)}\n`, 'three\n\n', 'four'])
  expect([...piecesOf(text, 100)]).toEqual([text])
  expect([...piecesOf('y'.repeat(20), 8)]).toEqual(['y'.repeat(20)])
  expect([...piecesOf('', 8)]).toEqual([])
})
