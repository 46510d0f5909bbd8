/** How alike two texts are, from 0 to 1, by measures that need no model. */

export const similarityMetrics = [
  'fuzzy_match',
  'gleu',
  'rouge_1',
  'rouge_2',
  'rouge_3',
  'rouge_4',
  'rouge_5',
  'rouge_l',
] as const

export type SimilarityMetric = (typeof similarityMetrics)[number]

/** Of a text so many characters, or words, are compared: the longest common part costs their product. */
const comparedMax = 4000

export function similarity(metric: SimilarityMetric, text: string, reference: string): number {
  if (metric === 'fuzzy_match') return sharedPart([...text], [...reference])
  const [own, other] = [wordsOf(text), wordsOf(reference)]
  if (metric === 'rouge_l') return sharedPart(own, other)
  if (metric === 'gleu') return googleBleu(own, other)
  const length = Number(metric.slice('rouge_'.length))
  const [a, b] = [runsOf(own, length), runsOf(other, length)]
  // The harmonic mean of precision and recall (Lin 2004).
  return sizeOf(a) + sizeOf(b) === 0 ? 0 : (2 * sharedOf(a, b)) / (sizeOf(a) + sizeOf(b))
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []
}

/**
 * Twice the longest common subsequence over both lengths: of characters the ratio of edits that insert and delete (as
 * rapidfuzz), of words ROUGE-L (Lin 2004).
 */
function sharedPart(a: readonly string[], b: readonly string[]): number {
  const [own, other] = [a.slice(0, comparedMax), b.slice(0, comparedMax)]
  if (own.length + other.length === 0) return 1
  let row = new Int32Array(other.length + 1)
  for (const one of own) {
    const next = new Int32Array(other.length + 1)
    for (let j = 0; j < other.length; j++)
      next[j + 1] = one === other[j] ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!)
    row = next
  }
  return (2 * row[other.length]!) / (own.length + other.length)
}

/** The smaller of precision and recall over runs of one to four words (Wu 2016, section 3). */
function googleBleu(own: readonly string[], other: readonly string[]): number {
  let [shared, most] = [0, 0]
  for (let length = 1; length <= 4; length++) {
    const [a, b] = [runsOf(own, length), runsOf(other, length)]
    shared += sharedOf(a, b)
    most += Math.max(sizeOf(a), sizeOf(b))
  }
  return most === 0 ? 0 : shared / most
}

/** Runs of so many words, and how often each is there. */
function runsOf(words: readonly string[], length: number): Map<string, number> {
  const runs = new Map<string, number>()
  for (let i = 0; i + length <= words.length; i++) {
    const run = words.slice(i, i + length).join(' ')
    runs.set(run, (runs.get(run) ?? 0) + 1)
  }
  return runs
}

function sharedOf(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  let shared = 0
  for (const [run, count] of a) shared += Math.min(count, b.get(run) ?? 0)
  return shared
}

const sizeOf = (runs: ReadonlyMap<string, number>) =>
  [...runs.values()].reduce((sum, count) => sum + count, 0)
