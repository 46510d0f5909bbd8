import { expect, test } from 'vitest'
import { type Chart, chartSvg } from '../../src/cli/chart.ts'

const chart: Chart = {
  title: 'a < b & c',
  xTitle: 'requests/s',
  yTitle: 'ms',
  scale: 'logarithmic',
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

test('a linear chart begins at step 0 and has round numbers at its edge', () => {
  const points = [0, 25, 50].map((x) => ({ x, y: 3 - x / 40 }))
  const limit = { y: 3.2, title: 'before' }
  const svg = chartSvg({ ...chart, scale: 'linear', limit, lines: [{ title: 'held out', points }] })
  expect(svg.match(/<circle /g)).toHaveLength(points.length + 1)
  for (const tick of ['>0<', '>10<', '>50<', '>2<']) expect(svg).toContain(tick)
})
