/** Parts of stores as lists of their own: what is held out, what is left, and several behind one another. */
import { deriveSeed, uniformAt } from '../../base/random.ts'
import type { DocumentList } from '../packing.ts'
import type { Sample, SourceLine } from './sample.ts'

/** Samples by number, with what is known of each without reading it. */
export interface SampleList extends DocumentList {
  trainedOf(index: number): number
  /** Equal for equal samples. */
  hashOf(index: number): number
  /** Equal for samples with equal prompts; 0 where there is none. */
  promptHashOf(index: number): number
  sourceOf(index: number): SourceLine
  part(index: number, start: number, end: number): Sample
}

/** The samples of `list` with these numbers. */
export function chosen(list: SampleList, numbers: Int32Array): SampleList {
  return {
    length: numbers.length,
    lengthOf: (index) => list.lengthOf(numbers[index]!),
    trainedOf: (index) => list.trainedOf(numbers[index]!),
    hashOf: (index) => list.hashOf(numbers[index]!),
    promptHashOf: (index) => list.promptHashOf(numbers[index]!),
    sourceOf: (index) => list.sourceOf(numbers[index]!),
    part: (index, start, end) => list.part(numbers[index]!, start, end),
  }
}

export function concatenated(lists: readonly SampleList[]): SampleList {
  const [only] = lists
  if (lists.length === 1) return only!
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
    promptHashOf: (index) => find(index, (list, place) => list.promptHashOf(place)),
    sourceOf: (index) => find(index, (list, place) => list.sourceOf(place)),
    part: (index, start, end) => find(index, (list, place) => list.part(place, start, end)),
  }
}

/**
 * Holds out `share` of the records. Which ones depends on their content and the seed, not on their place, so
 * equal samples end on the same side, and so do all samples of one record. Takes 16 bytes a sample while it counts.
 */
export function splitSamples(
  list: SampleList,
  share: number,
  seed: number,
): { training: SampleList; validation: SampleList } {
  if (share === 0) return { training: list, validation: chosen(list, new Int32Array(0)) }
  const sides = sidesByDraw(drawsOf(list, deriveSeed(seed, 'held out')), share)
  return { training: chosen(list, sides.left), validation: chosen(list, sides.held) }
}

/** Numbers of what is held out and of what is left, in order: at least `share`, above 0, by whole groups of equal draws. */
export function sidesByDraw(draws: Float64Array, share: number): { held: Int32Array; left: Int32Array } {
  const wanted = Math.min(draws.length, Math.max(1, Math.round(draws.length * share)))
  // Whole groups of equal draws, the least first, until there are enough.
  const sorted = draws.slice().sort()
  const last = sorted[wanted - 1]!
  // One group at least stays to learn from.
  const isHeld = last === sorted.at(-1) ? (draw: number) => draw < last : (draw: number) => draw <= last
  const heldOut = draws.reduce((count, draw) => count + Number(isHeld(draw)), 0)
  const sides = { held: new Int32Array(heldOut), left: new Int32Array(draws.length - heldOut) }
  const filled = { held: 0, left: 0 }
  for (let number = 0; number < draws.length; number++) {
    const side = isHeld(draws[number]!) ? 'held' : 'left'
    sides[side][filled[side]++] = number
  }
  return sides
}

/** The draw of each sample. Neighbours from one line are one record, which has the draw of its first sample. */
function drawsOf(list: SampleList, seed: number): Float64Array {
  const draws = new Float64Array(list.length)
  let last: SourceLine | undefined
  for (let number = 0; number < list.length; number++) {
    const source = list.sourceOf(number)
    const isSame = last !== undefined && last.file === source.file && last.line === source.line
    draws[number] = isSame ? draws[number - 1]! : uniformAt(seed, list.hashOf(number))
    last = source
  }
  return draws
}
