/** The page of bars is what the committed records say. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { bars, heldBars, page, readings } from '../../bench/bars.ts'

test('every bar of speed has a record, and the page of them is up to date', () => {
  for (const bar of bars) for (const { of } of readings(bar)) expect(of, bar.what).toBeGreaterThan(0)
  const committed = readFileSync(join(import.meta.dirname, '../../bench/results/bars.md'), 'utf8')
  expect(committed, 'bench/results/bars.md is old: npm run bench:bars').toBe(page())
})

test('a record of a processor with AVX2 alone stands beside those with more, and hides none', () => {
  const [bar] = bars.filter(({ what }) => what === 'on AVX2 alone, products against ggml')
  const sets = readings(bar!).map(({ set }) => set)
  expect(sets.length).toBeGreaterThan(1)
  expect(sets.at(-1)).toBe('avx2')
  expect(sets.at(-2)).toMatch(/^avx512/)
})

test('what keeps AMX from a bar is told, with an entry among the decisions', () => {
  const decisions = readFileSync(join(import.meta.dirname, '../../docs/decisions.md'), 'utf8')
  const held = heldBars()
  expect(held.length).toBeGreaterThan(0)
  for (const { bar } of held) expect(decisions, bar.what).toContain(`\n## ${bar.held?.entry}\n`)
})
