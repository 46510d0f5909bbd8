import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { Merger } from '../../src/tokenizer/merge.ts'
import { MergeTable } from '../../src/tokenizer/merge-table.ts'
import { WordCache } from '../../src/tokenizer/word-cache.ts'

/** Merging by its definition: the lowest rank, the leftmost of equals, one at a time. */
function naive(table: MergeTable, symbols: number[]): number[] {
  const left = [...symbols]
  for (;;) {
    let best = -1
    let bestRank = Number.POSITIVE_INFINITY
    for (let i = 0; i + 1 < left.length; i++) {
      const handle = table.find(left[i]!, left[i + 1]!)
      if (handle < 0 || table.rankAt(handle) >= bestRank) continue
      bestRank = table.rankAt(handle)
      best = i
    }
    if (best < 0) return left
    left.splice(best, 2, table.productAt(table.find(left[best]!, left[best + 1]!)))
  }
}

test('short words and long ones merge as the definition says, also where ranks are shared', () => {
  const random = new Random(23)
  for (let round = 0; round < 400; round++) {
    const table = new MergeTable(30)
    for (let product = 4; product < 34; product++) {
      const rank = round % 2 === 0 ? product : Math.floor(product / 4)
      table.set(random.integer(product), random.integer(product), rank, product)
    }
    const symbols = Array.from({ length: 1 + random.integer(round % 4 === 0 ? 300 : 60) }, () =>
      random.integer(4),
    )
    const merged = Int32Array.from(symbols)
    const count = new Merger(table).merge(merged, merged.length)
    expect(Array.from(merged.subarray(0, count))).toEqual(naive(table, symbols))
  }
})

test('a merge table finds what was set and nothing else', () => {
  const table = new MergeTable(1000)
  for (let i = 0; i < 1000; i++) table.set(i, i * 7, i, i + 1)
  for (let i = 0; i < 1000; i++) expect(table.productAt(table.find(i, i * 7))).toBe(i + 1)
  expect(table.find(1, 8)).toBe(-1)
  expect(table.size).toBe(1000)
})

test('the word cache forgets what was not asked for and never holds more than twice its size', () => {
  const cache = new WordCache(10)
  cache.set('kept', [1])
  for (let i = 0; i < 100; i++) {
    cache.set(`word ${i}`, [i])
    expect(cache.get('kept')).toEqual([1])
  }
  const left = Array.from({ length: 100 }, (_, i) => cache.get(`word ${i}`)).filter(
    (ids) => ids !== undefined,
  )
  expect(left.length).toBeLessThanOrEqual(20)
})
