/**
 * The step ledger: one line of JSON for every step that a run did, in OUT/ledger.jsonl. A later life of the run that
 * does a step again must get the same hash; a step that does not is reported.
 */
import { appendFileSync, existsSync, readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import type { StepReport } from './trainer.ts'

export interface LedgerEntry {
  /** Counted from 0. */
  step: number
  /** Of step-hash.ts. */
  hash: string
  loss: number | null
  gradientNorm: number | null
  learningRate: number
  tokens: number
  supervisedTokens: number
  outcome: StepReport['outcome']
}

export function ledgerFile(out: string): string {
  return join(out, 'ledger.jsonl')
}

/** The last entry of every step; a line that a crash cut off is left out. */
export function readLedger(out: string): Map<number, LedgerEntry> {
  const entries = new Map<number, LedgerEntry>()
  if (!existsSync(ledgerFile(out))) return entries
  for (const line of readFileSync(ledgerFile(out), 'utf8').split('\n').slice(0, -1)) {
    const entry = parsed(line)
    if (entry !== undefined) entries.set(entry.step, entry)
  }
  return entries
}

function parsed(line: string): LedgerEntry | undefined {
  try {
    return JSON.parse(line) as LedgerEntry
  } catch (error) {
    // Two lives that were cut off can leave half a line in the middle.
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

export function entryOf(report: StepReport): LedgerEntry {
  const { step, hash, loss, gradientNorm, learningRate, tokens, supervisedTokens, outcome } = report
  return { step, hash, loss, gradientNorm, learningRate, tokens, supervisedTokens, outcome }
}

export class StepLedger {
  readonly #path: string
  readonly #earlier: Map<number, LedgerEntry>

  constructor(out: string, stepsDone: number) {
    this.#path = ledgerFile(out)
    this.#earlier = readLedger(out)
    for (const step of this.#earlier.keys()) if (step < stepsDone) this.#earlier.delete(step)
    cutTornLine(this.#path)
  }

  /** Writes the step down; returns the entry of an earlier life when that came out otherwise. */
  add(report: StepReport): LedgerEntry | undefined {
    const earlier = this.#earlier.get(report.step)
    this.#earlier.delete(report.step)
    appendFileSync(this.#path, `${JSON.stringify(entryOf(report))}\n`)
    return earlier !== undefined && earlier.hash !== report.hash ? earlier : undefined
  }
}

function cutTornLine(path: string): void {
  if (!existsSync(path)) return
  const bytes = readFileSync(path)
  const end = bytes.lastIndexOf(10) + 1
  if (end < bytes.length) truncateSync(path, end)
}
