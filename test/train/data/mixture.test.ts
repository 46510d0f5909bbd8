import { expect, test } from 'vitest'
import { Mixture } from '../../../src/train/data/mixture.ts'
import { MixedDocuments } from '../../../src/train/packing.ts'

test('a mixture gives every source its share, in an order of the seed', () => {
  const mixture = new Mixture([3, 1, 0.05], 4)
  const rows = 5000
  const counts = [0, 0, 0]
  for (let row = 0; row < rows; row++) counts[mixture.at(row).source]!++
  for (const [source, weight] of [3, 1, 0.05].entries())
    expect(Math.abs(counts[source]! - (rows * weight) / 4.05)).toBeLessThan(40)
  const order = (seed: number) =>
    Array.from({ length: 64 }, (_, row) => new Mixture([1, 1], seed).at(row).source)
  expect(order(1)).toEqual(order(1))
  expect(order(1)).not.toEqual(order(2))
})

test('each source gives its rows one after the other, wherever the mixture is entered', () => {
  const mixture = new Mixture([0.7, 0.2, 0.1], 9)
  const next = [0, 0, 0]
  for (let row = 0; row < 4000; row++) {
    const { source, rank } = mixture.at(row)
    expect(rank).toBe(next[source]!++)
    if (row % 997 === 0) expect(new Mixture([0.7, 0.2, 0.1], 9).at(row)).toEqual({ source, rank })
  }
})

test('rows of a mixture hold documents of one source each, as often as the weights say', () => {
  const documentsOf = (token: number) =>
    Array.from({ length: 30 }, () => ({ tokens: new Int32Array(4).fill(token) }))
  const parts = [
    { documents: documentsOf(1), weight: 3 },
    { documents: documentsOf(2), weight: 1 },
  ]
  const mixed = new MixedDocuments(parts, 4, 8, 1)
  const seen = new Map<number, number>()
  for (let index = 0; index < 256; index++) {
    const { ids } = mixed.at(index)
    for (let row = 0; row < 4; row++) {
      const tokens = new Set(ids.subarray(row * 8, row * 8 + 8))
      expect(tokens.size).toBe(1)
      const [token] = tokens
      seen.set(token!, (seen.get(token!) ?? 0) + 1)
    }
  }
  expect([seen.get(1), seen.get(2)]).toEqual([768, 256])
})
