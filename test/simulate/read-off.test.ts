import { expect, test } from 'vitest'
import { readOff } from '../../src/serve/simulate/throughput.ts'

test('a curve is read off between its points by their logarithms', () => {
  const points = [
    { offered: 1, medianMs: 10 },
    { offered: 4, medianMs: 40 },
  ]
  expect(readOff(points, 20)).toBeCloseTo(2, 9)
  expect(readOff(points, 5)).toBe(0)
  expect(readOff(points, 100)).toBe(4)
})
