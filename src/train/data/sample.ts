/**
 * What training learns from, whatever the file it came from: token ids with one weight per token, and the
 * line that people are pointed to when something is wrong with it.
 */

/** Where a record stands, for messages: `file:line`. Lines count from 1. */
export interface SourceLine {
  file: string
  line: number
}

export interface Sample {
  tokens: Int32Array
  /** [tokens.length]: how much each token counts as a target; 0 is masked. The first is never a target. */
  weights: Float32Array
  source: SourceLine
}

/** Two answers to one prompt. The prompt is the prefix that both share, and weighs 0 in both. */
export interface PreferencePair {
  chosen: Sample
  rejected: Sample
  source: SourceLine
}

/** One answer with a verdict (KTO). */
export interface RatedSample {
  sample: Sample
  desirable: boolean
}

/** `file:line`, as editors and terminals link it. */
export function placeOf({ file, line }: SourceLine): string {
  return `${file}:${line}`
}

/** How many of a sample's tokens are targets that count. */
export function trainedTokens({ weights }: Pick<Sample, 'weights'>): number {
  let count = 0
  for (let i = 1; i < weights.length; i++) if (weights[i] !== 0) count++
  return count
}
