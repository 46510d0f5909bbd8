import { expect, test } from 'vitest'
import { learningRateAt, type Schedule } from '../../src/train/schedule.ts'

const base = { learningRate: 1, learningRateMin: 0.1, warmupSteps: 4, decaySteps: 20 }
const rates = (kind: Schedule['kind'], more: Partial<Schedule> = {}) =>
  Array.from({ length: 24 }, (_, step) => learningRateAt({ ...base, kind, ...more }, step))

test.each(['constant', 'linear', 'cosine', 'wsd'] as const)(
  '%s warms up linearly and then starts at its rate',
  (kind) => {
    expect(rates(kind).slice(0, 5)).toEqual([0.2, 0.4, 0.6, 0.8, 1])
  },
)

test('wsd holds its rate until the cool-down, which ends at the minimum', () => {
  const seen = rates('wsd', { cooldownSteps: 5 })
  expect(seen.slice(4, 16)).toEqual(new Array(12).fill(1))
  expect(seen[16]).toBeCloseTo(0.82, 12)
  expect(seen[19]).toBeCloseTo(0.28, 12)
  expect(seen.slice(20)).toEqual([0.1, 0.1, 0.1, 0.1])
})

test('the cool-down of wsd is a tenth of the run when nobody says', () => {
  expect(rates('wsd')[17]).toBe(1)
  expect(rates('wsd')[19]).toBeCloseTo(0.55, 12)
})

test('linear and cosine fall from the first step behind the warm-up to the minimum', () => {
  expect(rates('linear')[12]).toBeCloseTo(0.55, 12)
  expect(rates('cosine')[12]).toBeCloseTo(0.55, 12)
  expect(rates('cosine')[6]).toBeGreaterThan(rates('linear')[6]!)
  expect(rates('constant')[23]).toBe(1)
})
