import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { planRows } from '../../src/train/row-plan.ts'

/** The same by the shortest means: look at every row for every piece. */
function bestFit(lengths: readonly number[], rowTokens: number): number[][][] {
  const pieces = lengths.flatMap((length, document) => {
    const parts: number[][] = []
    for (let start = 0; start < length - 1; start += rowTokens - 1)
      parts.push([document, start, Math.min(rowTokens, length - start)])
    return parts
  })
  const rows: { room: number; since: number; pieces: number[][] }[] = []
  let now = 0
  for (const piece of pieces.sort((a, b) => b[2]! - a[2]!)) {
    const fitting = rows.filter(({ room }) => room >= piece[2]! && room >= 2)
    // Of rows with equal room, the one that got it last.
    const best = fitting.sort((a, b) => a.room - b.room || b.since - a.since)[0]
    const row = best ?? { room: rowTokens, since: 0, pieces: [] }
    if (best === undefined) rows.push(row)
    row.pieces.push(piece)
    row.room -= piece[2]!
    row.since = now++
  }
  return rows.map(({ pieces: held }) => held)
}

test.each([[3], [16], [70], [2100]])('rows of %i tokens are filled best-fit, longest first', (rowTokens) => {
  const random = new Random(rowTokens)
  const lengths = Array.from({ length: 300 }, () => random.integer(Math.floor(1.7 * rowTokens)))
  const plan = planRows({ length: lengths.length, lengthOf: (i) => lengths[i]! }, rowTokens)
  const rows = Array.from({ length: plan.rows }, (_, row) => {
    const held: number[][] = []
    plan.eachPiece(row, (...piece) => held.push(piece))
    return held
  })
  expect(rows).toEqual(bestFit(lengths, rowTokens))
  expect(plan.heldTokens).toBe(rows.flat().reduce((sum, [, , length]) => sum + length!, 0))
})

test('a million documents are planned in 16 bytes each and without looking at every row', () => {
  const count = 1_000_000
  const plan = planRows({ length: count, lengthOf: (i) => 2 + ((i * 7919) % 1500) }, 1024)
  expect(plan.bytes / count).toBeLessThan(26)
  expect(plan.heldTokens / (plan.rows * 1024)).toBeGreaterThan(0.95)
})
