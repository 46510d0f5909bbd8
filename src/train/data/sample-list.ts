/** Parts of stores as lists of their own: what is held out, what is left, and several behind one another. */
import { deriveSeed, uniformAt } from '../../base/random.ts'
import type { DocumentList } from '../packing.ts'
import type { Sample, SourceLine } from './sample.ts'

/** Samples by number, with what is known of each without reading it. */
export interface SampleList extends DocumentList {
  trainedOf(index: number): number
  /** Equal for equal samples. */
  hashOf(index: number): number
  sourceOf(index: number): SourceLine
  at(index: number): Sample
}

/** The samples of `list` with these numbers. */
export function chosen(list: SampleList, numbers: Int32Array): SampleList {
  return {
    length: numbers.length,
    lengthOf: (index) => list.lengthOf(numbers[index]!),
    trainedOf: (index) => list.trainedOf(numbers[index]!),
    hashOf: (index) => list.hashOf(numbers[index]!),
    sourceOf: (index) => list.sourceOf(numbers[index]!),
    at: (index) => list.at(numbers[index]!),
  }
}

export function concatenated(lists: readonly SampleList[]): SampleList {
  const starts = [0]
  for (const { length } of lists) starts.push(starts.at(-1)! + length)
  const find = <Value>(index: number, read: (list: SampleList, place: number) => Value): Value => {
    let part = 0
    while (index >= starts[part + 1]!) part++
    return read(lists[part]!, index - starts[part]!)
  }
  return {
    length: starts.at(-1)!,
    lengthOf: (index) => find(index, (list, place) => list.lengthOf(place)),
    trainedOf: (index) => find(index, (list, place) => list.trainedOf(place)),
    hashOf: (index) => find(index, (list, place) => list.hashOf(place)),
    sourceOf: (index) => find(index, (list, place) => list.sourceOf(place)),
    at: (index) => find(index, (list, place) => list.at(place)),
  }
}

/**
 * Holds out `share` of the records. Which ones depends on their content and the seed, not on their place, so
 * equal samples end on the same side, and so do all samples of one record.
 */
export function splitSamples(
  list: SampleList,
  share: number,
  seed: number,
): { training: SampleList; validation: SampleList } {
  const records = recordsOf(list)
  const drawSeed = deriveSeed(seed, 'held out')
  const groups = new Map<number, number[]>()
  for (const { hash, numbers } of records) {
    const draw = uniformAt(drawSeed, hash)
    const group = groups.get(draw)
    if (group === undefined) groups.set(draw, numbers)
    else group.push(...numbers)
  }
  const wanted = share === 0 ? 0 : Math.max(1, Math.round(list.length * share))
  const heldOut: number[] = []
  const left: number[] = []
  for (const [, numbers] of [...groups].sort(([a], [b]) => a - b)) {
    // One group at least stays to learn from.
    const isLast = left.length === 0 && heldOut.length + numbers.length >= list.length
    const side = heldOut.length < wanted && !isLast ? heldOut : left
    for (const number of numbers) side.push(number)
  }
  const listOf = (numbers: number[]) => chosen(list, Int32Array.from(numbers.sort((a, b) => a - b)))
  return { training: listOf(left), validation: listOf(heldOut) }
}

/** Neighbours from one line are one record; its hash is that of its first sample. */
function recordsOf(list: SampleList): { hash: number; numbers: number[] }[] {
  const records: { hash: number; numbers: number[]; source: SourceLine }[] = []
  for (let number = 0; number < list.length; number++) {
    const source = list.sourceOf(number)
    const last = records.at(-1)
    if (last !== undefined && last.source.file === source.file && last.source.line === source.line) {
      last.numbers.push(number)
    } else records.push({ hash: list.hashOf(number), numbers: [number], source })
  }
  return records
}
