/** Everything that a job learns from and is held to, in a form that can be counted and looked at. */
import { type Sample, trainedTokens } from './sample.ts'
import type { SampleList } from './sample-list.ts'
import { hashOfBytes, promptHashOf, type StoreReport } from './sample-store.ts'

export const materialKinds = ['texts', 'samples', 'pairs', 'ratings', 'prompts'] as const

export interface Material {
  /** Pairs lie as chosen, rejected, chosen, ...; ratings without the answers that they are measured against. */
  kind: (typeof materialKinds)[number]
  training: SampleList
  validation: SampleList
  /** What was seen while the records were read; none for texts. */
  reports: readonly StoreReport[]
  /** Share of the rows' places that hold tokens, in (0, 1]. */
  fillRate: number
  /** Tokens of all rows in one pass, places that hold none included. */
  passTokens: number
}

/** Samples in memory as a list. */
export function listOf(samples: readonly Sample[]): SampleList {
  return {
    length: samples.length,
    lengthOf: (index) => samples[index]!.tokens.length,
    trainedOf: (index) => trainedTokens(samples[index]!),
    hashOf: (index) => hashOf(samples[index]!),
    promptHashOf: (index) => promptHashOf(samples[index]!),
    sourceOf: (index) => samples[index]!.source,
    part: (index, start, end) => {
      const { tokens, weights, source } = samples[index]!
      return { tokens: tokens.subarray(start, end), weights: weights.subarray(start, end), source }
    },
  }
}

function hashOf({ tokens, weights }: Sample): number {
  const bytes = ({ buffer, byteOffset, byteLength }: Int32Array | Float32Array) =>
    new Uint8Array(buffer, byteOffset, byteLength)
  return hashOfBytes(bytes(tokens), bytes(weights))
}

/** A report in which nothing was seen yet. */
export function emptyReport(): Omit<StoreReport, 'files'> {
  return {
    samples: 0,
    tokens: 0,
    trainedTokens: 0,
    endingSamples: 0,
    cutSamples: 0,
    longestTokens: 0,
    problemCounts: {},
    problems: [],
    notes: [],
  }
}

/** Counts a sample that can be learned from. */
export function countSample(
  report: Omit<StoreReport, 'files'>,
  sample: Sample,
  endings: ReadonlySet<number>,
): void {
  const { tokens, weights } = sample
  report.samples++
  report.tokens += tokens.length
  report.longestTokens = Math.max(report.longestTokens, tokens.length)
  report.trainedTokens += trainedTokens(sample)
  if (tokens.some((token, i) => weights[i] !== 0 && endings.has(token))) report.endingSamples++
}

/** Problems that a report shows; all of them are counted. */
const problemsMax = 100

export function countProblem(
  report: Omit<StoreReport, 'files'>,
  problem: StoreReport['problems'][number],
): void {
  report.problemCounts[problem.code] = (report.problemCounts[problem.code] ?? 0) + 1
  if (report.problems.length < problemsMax) report.problems.push(problem)
}
