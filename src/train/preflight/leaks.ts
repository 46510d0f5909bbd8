/** Held-out data that is learned from, too: an evaluation on it says nothing. */
import type { Steps } from '../../base/pauses.ts'
import type { Material } from '../data/material.ts'
import { placeOf } from '../data/sample.ts'
import type { SampleList } from '../data/sample-list.ts'
import { placesMax, samplesPerStep } from './census.ts'
import { HashTable } from './hash-table.ts'

export interface Leaks {
  /** Held-out samples that are among those learned from, token for token. */
  samples: number
  /** Held-out samples whose prompt is learned from with the same or another answer; never of texts. */
  prompts: number
  /** Share of the held-out tokens of texts that lie in a run of 50 tokens that is learned from (Lee 2022). */
  overlap: number
  /** `file:line` of the first held-out ones, each with where it is learned from. */
  places: { heldOut: string; training: string }[]
}

export function* leaksOf({ kind, training, validation }: Material): Steps<Leaks> {
  const leaks: Leaks = { samples: 0, prompts: 0, overlap: 0, places: [] }
  if (validation.length === 0) return leaks
  if (kind === 'texts') return { ...leaks, overlap: yield* overlapOf(training, validation) }
  const same = yield* foundIn(training, validation, 'hashOf')
  const asked = yield* foundIn(training, validation, 'promptHashOf')
  const place = (list: SampleList, index: number) => placeOf(list.sourceOf(index))
  for (let i = 0; i < validation.length; i++) {
    const found = same[i]! >= 0 ? same[i]! : asked[i]!
    if (found < 0) continue
    if (same[i]! >= 0) leaks.samples++
    else leaks.prompts++
    if (leaks.places.length < placesMax)
      leaks.places.push({ heldOut: place(validation, i), training: place(training, found) })
  }
  return leaks
}

/** For each held-out sample the number of the first one with the same hash that is learned from, or -1. */
function* foundIn(
  training: SampleList,
  validation: SampleList,
  hashOf: 'hashOf' | 'promptHashOf',
): Steps<Int32Array> {
  const table = new HashTable(training.length)
  for (let i = 0; i < training.length; i++) {
    if (i % samplesPerStep === 0) yield
    const hash = training[hashOf](i)
    if (hash !== 0) table.add(hash, i)
  }
  const found = new Int32Array(validation.length)
  for (let i = 0; i < found.length; i++) {
    const hash = validation[hashOf](i)
    found[i] = hash === 0 ? -1 : (table.get(hash) ?? -1)
  }
  return found
}

/** Tokens of a run that is long enough to be no coincidence. */
const runTokens = 50
/** Held-out runs that are looked for: of more, so many are drawn evenly. */
const runsMax = 1 << 16
/** Training tokens that are looked through, from the beginning. */
const lookedTokensMax = 1e9
/** Tokens that are in memory at a time. */
const partTokens = 1 << 20

/** A run of the held-out texts. */
interface Runs {
  samples: Uint32Array
  starts: Uint32Array
  hashes: Int32Array
}

function* overlapOf(training: SampleList, validation: SampleList): Steps<number> {
  const runs = runsOf(validation)
  const count = runs.hashes.length
  const table = new RunTable(runs.hashes)
  const found = new Uint8Array(count)
  let looked = 0
  for (let i = 0; i < training.length && looked < lookedTokensMax; i++) {
    for (const tokens of partsOf(training, i)) {
      yield
      looked += tokens.length
      rolling(tokens, (hash, start) => {
        const run = table.get(hash)
        if (run !== undefined && found[run] === 0 && isSameRun(validation, runs, run, tokens, start))
          found[run] = 1
      })
    }
  }
  let all = 0
  for (let run = 0; run < count; run++) if (found[run] === 1) all += table.counts[run]!
  return count === 0 ? 0 : all / count
}

/** Parts of a sample, each with the end of the one before, so that every run lies in one of them. */
function* partsOf(list: SampleList, index: number): Generator<Int32Array> {
  const length = list.lengthOf(index)
  for (let start = 0; start < length; start += partTokens)
    yield list.part(index, start, Math.min(length, start + partTokens + runTokens - 1)).tokens
}

/** The held-out samples in runs, every one of them or as many as are looked for. */
function runsOf(validation: SampleList): Runs {
  const runsIn = (sample: number) => Math.floor(validation.lengthOf(sample) / runTokens)
  let all = 0
  for (let sample = 0; sample < validation.length; sample++) all += runsIn(sample)
  const count = Math.min(all, runsMax)
  const runs = {
    samples: new Uint32Array(count),
    starts: new Uint32Array(count),
    hashes: new Int32Array(count),
  }
  let before = 0
  let taken = 0
  for (let sample = 0; sample < validation.length; sample++) {
    const here = runsIn(sample)
    for (; taken < count; taken++) {
      const run = Math.floor((taken * all) / count) - before
      if (run >= here) break
      const start = run * runTokens
      runs.samples[taken] = sample
      runs.starts[taken] = start
      runs.hashes[taken] = hashOfRun(validation.part(sample, start, start + runTokens).tokens, 0)
    }
    before += here
  }
  return runs
}

/** The first run of each hash. */
class RunTable {
  /** How many runs are equal to each first one: a text may say the same a million times. */
  readonly counts: Uint32Array
  /** A bit for each value of the lowest bits of a hash that a run has: nearly all others are passed over by it. */
  readonly #bits = new Uint32Array(1 << 15)
  readonly #firsts = new Map<number, number>()

  constructor(hashes: Int32Array) {
    this.counts = new Uint32Array(hashes.length)
    for (let run = 0; run < hashes.length; run++) {
      const hash = hashes[run]!
      const first = this.#firsts.get(hash) ?? run
      if (first === run) this.#firsts.set(hash, run)
      this.counts[first]!++
      this.#bits[(hash & 0xfffff) >> 5]! |= 1 << (hash & 31)
    }
  }

  get(hash: number): number | undefined {
    const isPossible = (this.#bits[(hash & 0xfffff) >> 5]! & (1 << (hash & 31))) !== 0
    return isPossible ? this.#firsts.get(hash) : undefined
  }
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

function isSameRun(
  validation: SampleList,
  runs: Runs,
  run: number,
  tokens: Int32Array,
  start: number,
): boolean {
  const from = runs.starts[run]!
  const held = validation.part(runs.samples[run]!, from, from + runTokens).tokens
  return held.every((token, i) => token === tokens[start + i])
}
