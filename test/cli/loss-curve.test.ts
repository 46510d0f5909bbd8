import { expect, test } from 'vitest'
import { LossCurve } from '../../src/cli/loss-curve.ts'

test('a falling loss is a falling curve with its scale, however many points there are', () => {
  const curve = new LossCurve()
  expect(curve.draw(40, 4)).toEqual([])
  for (let step = 1; step <= 50_000; step++) curve.add(step, 10 - step / 5000)
  curve.add(50_001, Number.NaN)
  const lines = curve.draw(40, 4)
  expect(lines.map((line) => line.length)).toEqual([40, 40, 40, 40])
  expect(lines[0]).toMatch(/^9\.9\d ┤[^⠀]/)
  expect(lines[3]).toMatch(/^0\.\d\d ┤⠀+/)
  // The first column has dots in the first line only, the last one in the last.
  const first = lines.map((line) => line[6])
  expect(first.slice(1)).toEqual(['⠀', '⠀', '⠀'])
  const last = lines.map((line) => line.at(-1))
  expect(last.slice(0, 3)).toEqual(['⠀', '⠀', '⠀'])
  expect(last[3]).not.toBe('⠀')
})

test('a constant loss is a level line', () => {
  const curve = new LossCurve()
  for (let step = 1; step <= 10; step++) curve.add(step, 2)
  expect(curve.draw(20, 3)[2]).toContain('⣀⣀')
})
