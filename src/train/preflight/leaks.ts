/** Held-out data that is learned from, too: an evaluation on it says nothing. */
import type { Material } from '../data/material.ts'
import { placeOf, type Sample } from '../data/sample.ts'
import type { SampleList } from '../data/sample-list.ts'
import { placesMax } from './census.ts'

export interface Leaks {
  /** Held-out samples that are among those learned from, token for token. */
  samples: number
  /** Held-out samples whose prompt is learned from with the same or another answer; never of texts. */
  prompts: number
  /** Share of the held-out tokens of texts that lie in a run of 50 tokens that is learned from (Lee 2022). */
  overlap: number
  /** `file:line` of the first held-out ones, each with where it is learned from. */
  places: { heldOut: string; training: string }[]
  /** Samples that were compared; beyond a limit the rest is not. */
  compared: number
}

/** Prompts are read from disk sample by sample: so many at most. */
const promptsMax = 200_000
/** Tokens of training texts that are looked through. */
const textTokensMax = 100e6

export function leaksOf({ kind, training, validation }: Material): Leaks {
  const leaks: Leaks = { samples: 0, prompts: 0, overlap: 0, places: [], compared: training.length }
  if (validation.length === 0) return leaks
  if (kind === 'texts') return { ...leaks, overlap: overlapOf(training, validation) }
  const place = (list: SampleList, index: number) => placeOf(list.sourceOf(index))
  const byHash = new Map<number, number>()
  for (let i = 0; i < training.length; i++) byHash.set(training.hashOf(i), i)
  const add = (index: number, found: number) => {
    if (leaks.places.length >= placesMax) return
    leaks.places.push({ heldOut: place(validation, index), training: place(training, found) })
  }
  const prompts = new Map<string, number>()
  leaks.compared = Math.min(training.length, promptsMax)
  for (let i = 0; i < leaks.compared; i++) prompts.set(promptOf(training.at(i)), i)
  prompts.delete('')
  for (let i = 0; i < Math.min(validation.length, promptsMax); i++) {
    const same = byHash.get(validation.hashOf(i))
    const asked = prompts.get(promptOf(validation.at(i)))
    if (same !== undefined) leaks.samples++
    else if (asked !== undefined) leaks.prompts++
    const found = same ?? asked
    if (found !== undefined) add(i, found)
  }
  return leaks
}

/** What stands before the first token that is learned; nothing for a sample that is learned from its beginning. */
function promptOf({ tokens, weights }: Sample): string {
  let length = 1
  while (length < weights.length && weights[length] === 0) length++
  return length <= 1 ? '' : tokens.subarray(0, length).join(' ')
}

/** Tokens of a run that is long enough to be no coincidence. */
const runTokens = 50

function overlapOf(training: SampleList, validation: SampleList): number {
  const wanted = new Map<number, { sample: number; start: number }[]>()
  let runs = 0
  for (let sample = 0; sample < validation.length; sample++) {
    const { tokens } = validation.at(sample)
    for (let start = 0; start + runTokens <= tokens.length; start += runTokens) {
      const hash = hashOfRun(tokens, start)
      wanted.set(hash, [...(wanted.get(hash) ?? []), { sample, start }])
      runs++
    }
  }
  const found = new Set<string>()
  let looked = 0
  for (let i = 0; i < training.length && looked < textTokensMax; i++) {
    const { tokens } = training.at(i)
    looked += tokens.length
    rolling(tokens, (hash, start) => {
      for (const one of wanted.get(hash) ?? [])
        if (sameRun(validation.at(one.sample).tokens, one.start, tokens, start))
          found.add(`${one.sample}:${one.start}`)
    })
  }
  return runs === 0 ? 0 : found.size / runs
}

const multiplier = 0x01000193

function hashOfRun(tokens: Int32Array, start: number): number {
  let hash = 0
  for (let i = 0; i < runTokens; i++) hash = (Math.imul(hash, multiplier) + tokens[start + i]!) | 0
  return hash
}

/** Every run's hash, each made from the one before (Karp and Rabin 1987). */
function rolling(tokens: Int32Array, onRun: (hash: number, start: number) => void): void {
  if (tokens.length < runTokens) return
  let power = 1
  for (let i = 1; i < runTokens; i++) power = Math.imul(power, multiplier)
  let hash = hashOfRun(tokens, 0)
  onRun(hash, 0)
  for (let start = 1; start + runTokens <= tokens.length; start++) {
    const without = (hash - Math.imul(tokens[start - 1]!, power)) | 0
    hash = (Math.imul(without, multiplier) + tokens[start + runTokens - 1]!) | 0
    onRun(hash, start)
  }
}

function sameRun(a: Int32Array, from: number, b: Int32Array, start: number): boolean {
  for (let i = 0; i < runTokens; i++) if (a[from + i] !== b[start + i]) return false
  return true
}
