import { expect, test } from 'vitest'
import { nearest } from '../../src/base/nearest.ts'

const names = ['steps', 'schedule', 'optimizer', 'weight_decay', 'data']

test.each([
  ['stepz', 'steps'],
  ['Steps', 'steps'],
  ['weigth_decay', 'weight_decay'],
  ['optimiser', 'optimizer'],
  ['dat', 'data'],
  ['colour', undefined],
  ['', undefined],
])('%s means %s', (given, meant) => {
  expect(nearest(given, names)).toBe(meant)
})
