/** The page of bars is what the committed records say. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { bars, page, readings } from '../../bench/bars.ts'

test('every bar of speed has a record, and the page of them is up to date', () => {
  for (const bar of bars) for (const { of } of readings(bar)) expect(of, bar.what).toBeGreaterThan(0)
  const committed = readFileSync(join(import.meta.dirname, '../../bench/results/bars.md'), 'utf8')
  expect(committed, 'bench/results/bars.md is old: npm run bench:bars').toBe(page())
})
