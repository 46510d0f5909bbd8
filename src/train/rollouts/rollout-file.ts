/** OUT/rollouts.jsonl: the newest answers of a run with what they were worth, a line of JSON each. */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { writeFileAtomic } from '../../base/files.ts'

export interface RolloutEntry {
  /** The step that learned from it first, counted from 0. */
  step: number
  /** Where its prompt stands: `file:line`. */
  at: string
  prompt: string
  answer: string
  expected: string | null
  reward: number
  /** By name of the reward, before its weight. */
  scores: Record<string, number>
  advantage: number
  tokens: number
  /** It was cut at tokens_max. */
  cut: boolean
}

export const rolloutsName = 'rollouts.jsonl'

/** Of a text so much is kept. */
const charactersMax = 20_000

export class RolloutFile {
  readonly #path: string
  readonly #keep: number
  #lines: number

  /** What an earlier life of the run wrote for steps that are done again makes way. */
  constructor(path: string, keep: number, stepsDone: number) {
    this.#path = path
    this.#keep = keep
    const kept = readRollouts(path).filter(({ step }) => step < stepsDone)
    this.#lines = kept.length
    if (existsSync(path)) this.#rewrite(kept)
  }

  /** The file grows to twice what is kept, and is then cut to it. */
  add(entries: readonly RolloutEntry[]): void {
    if (this.#keep === 0) return
    const lines = entries.slice(-this.#keep).map(lineOf)
    appendFileSync(this.#path, lines.join(''))
    this.#lines += lines.length
    if (this.#lines > 2 * this.#keep) this.#rewrite(readRollouts(this.#path))
  }

  #rewrite(entries: readonly RolloutEntry[]): void {
    const kept = this.#keep === 0 ? [] : entries.slice(-this.#keep)
    writeFileAtomic(this.#path, kept.map(lineOf).join(''))
    this.#lines = kept.length
  }
}

function lineOf(entry: RolloutEntry): string {
  const short = (text: string) => (text.length > charactersMax ? `${text.slice(0, charactersMax)} ...` : text)
  return `${JSON.stringify({ ...entry, prompt: short(entry.prompt), answer: short(entry.answer) })}\n`
}

/** A line that a crash cut off is left out. */
export function readRollouts(path: string): RolloutEntry[] {
  if (!existsSync(path)) return []
  return readFileSync(path, 'utf8').split('\n').flatMap(parsed)
}

function parsed(line: string): RolloutEntry[] {
  try {
    return [JSON.parse(line) as RolloutEntry]
  } catch (error) {
    // The empty text behind the last line end, too.
    if (error instanceof SyntaxError) return []
    throw error
  }
}
