import { expect, test } from 'vitest'
import { chartSvg } from '../../src/serve/simulate/plot.ts'
import { readOff } from '../../src/serve/simulate/throughput.ts'

const chart = {
  title: 'a < b & c',
  xTitle: 'requests/s',
  yTitle: 'ms',
  lines: [
    {
      title: 'one',
      points: [
        { x: 1, y: 20 },
        { x: 10, y: 2000 },
      ],
    },
    { title: 'other', points: [{ x: 1, y: 10 }] },
  ],
  limit: { y: 40, title: 'limit' },
}

test('a chart holds every line, its legend and no raw markup', () => {
  const svg = chartSvg(chart)
  expect(svg.match(/<path /g)).toHaveLength(2)
  expect(svg).toContain('a &lt; b &amp; c')
  expect(svg).toContain('prefers-color-scheme: dark')
  for (const word of ['one', 'other', 'limit', 'requests/s']) expect(svg).toContain(word)
  expect(svg).not.toContain('NaN')
})

test('a curve is read off between its points by their logarithms', () => {
  const points = [
    { offered: 1, medianMs: 10 },
    { offered: 4, medianMs: 40 },
  ]
  expect(readOff(points, 20)).toBeCloseTo(2, 9)
  expect(readOff(points, 5)).toBe(0)
  expect(readOff(points, 100)).toBe(4)
})
