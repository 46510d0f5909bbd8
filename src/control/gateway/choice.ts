import type { Random } from '../../base/random.ts'

/** One replica as a choice sees it. */
export interface Candidate {
  readonly id: string
  /** Requests that it runs or that wait there, as far as is known. */
  readonly load: number
  /** Characters of this prompt that it computed before. */
  readonly knownCharacters: number
}

/**
 * A request more in a replica's batch costs about as much as computing so many characters of a prompt: below
 * it the prefix cache decides, beyond it the load.
 */
export const charactersPerRequest = 4096

/**
 * Which replica computes a prompt of `promptCharacters`: of those that know a part of it and of two others
 * chosen at random (Mitzenmacher 2001: two choices are nearly as good as all), the one with the least work,
 * load and what is left of the prompt together. Undefined without candidates.
 */
export function choose(
  candidates: readonly Candidate[],
  promptCharacters: number,
  random: Random,
): Candidate | undefined {
  if (candidates.length <= 1) return candidates[0]
  const first = random.integer(candidates.length)
  const second = (first + 1 + random.integer(candidates.length - 1)) % candidates.length
  const drawn = new Set([candidates[first]!, candidates[second]!])
  for (const candidate of candidates) if (candidate.knownCharacters > 0) drawn.add(candidate)
  const work = ({ load, knownCharacters }: Candidate) =>
    load * charactersPerRequest + Math.max(0, promptCharacters - knownCharacters)
  return [...drawn].reduce((best, candidate) => (work(candidate) < work(best) ? candidate : best))
}
