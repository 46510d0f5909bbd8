/** Counts over samples: how long they are, how much of them is learned, which are there twice. */
import type { Steps } from '../../base/pauses.ts'
import { placeOf } from '../data/sample.ts'
import type { SampleList } from '../data/sample-list.ts'
import { HashTable } from './hash-table.ts'

export interface Census {
  samples: number
  tokens: number
  /** Tokens that are targets and count. */
  trainedTokens: number
  lengths: LengthHistogram
  /** Samples that say word for word what an earlier one says. */
  duplicates: number
  /** `file:line` of the first few, each with the place of what it repeats. */
  duplicatePlaces: { at: string; repeats: string }[]
}

export interface LengthHistogram {
  /** Tokens of the shortest sample, of the one in the middle, of the one longer than nine of ten, of the longest. */
  min: number
  median: number
  p90: number
  max: number
  /** Samples of `from` to `to` tokens; the bounds are powers of two. */
  buckets: { from: number; to: number; samples: number }[]
}

/** Places that a report lists. */
export const placesMax = 5

/** Looked at between two pauses. */
export const samplesPerStep = 4096

export function* censusOf(list: SampleList): Steps<Census> {
  const lengths = new Int32Array(list.length)
  const seen = new HashTable(list.length)
  const census: Census = {
    samples: list.length,
    tokens: 0,
    trainedTokens: 0,
    lengths: { min: 0, median: 0, p90: 0, max: 0, buckets: [] },
    duplicates: 0,
    duplicatePlaces: [],
  }
  for (let i = 0; i < list.length; i++) {
    if (i % samplesPerStep === 0) yield
    lengths[i] = list.lengthOf(i)
    census.tokens += lengths[i]!
    census.trainedTokens += list.trainedOf(i)
    const earlier = seen.add(list.hashOf(i), i)
    if (earlier === undefined) continue
    census.duplicates++
    if (census.duplicatePlaces.length < placesMax) {
      const place = (index: number) => placeOf(list.sourceOf(index))
      census.duplicatePlaces.push({ at: place(i), repeats: place(earlier) })
    }
  }
  return { ...census, lengths: histogramOf(lengths) }
}

/** Sorts the lengths. */
function histogramOf(lengths: Int32Array): LengthHistogram {
  const sorted = lengths.sort()
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0
  const buckets: LengthHistogram['buckets'] = []
  for (const length of sorted) {
    const from = length < 1 ? 0 : 2 ** Math.floor(Math.log2(length))
    const last = buckets.at(-1)
    if (last?.from === from) last.samples++
    else buckets.push({ from, to: Math.max(0, 2 * from - 1), samples: 1 })
  }
  return { min: at(0), median: at(0.5), p90: at(0.9), max: at(1), buckets }
}
