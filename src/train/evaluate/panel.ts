/** The sampling panel: what the model says to the same prompts over time, kept in a file of JSON lines. */
import { existsSync, readFileSync } from 'node:fs'
import { writeFileAtomic } from '../../base/files.ts'

export interface PanelEntry {
  stepsDone: number
  prompt: string
  text: string
}

export const panelName = 'samples.jsonl'

/** Adds entries of one step; what an interrupted life of the run wrote for it or for later ones makes way. */
export function keepSamples(path: string, entries: readonly PanelEntry[]): void {
  const first = Math.min(...entries.map(({ stepsDone }) => stepsDone))
  const kept = readSamples(path).filter(({ stepsDone }) => stepsDone < first)
  writeFileAtomic(path, [...kept, ...entries].map((entry) => `${JSON.stringify(entry)}\n`).join(''))
}

export function readSamples(path: string): PanelEntry[] {
  if (!existsSync(path)) return []
  const lines = readFileSync(path, 'utf8').split('\n')
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as PanelEntry)
}
