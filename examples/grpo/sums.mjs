// Writes into out/ the sums that the two jobs beside it learn from, and those that are held out: node sums.mjs
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const record = (a, b) => JSON.stringify({ prompt: `${a}+${b}=`, completion: String(a + b) })
const all = []
for (let a = 0; a < 100; a++) for (let b = 0; b < 100; b++) all.push([a, b])
// A linear congruential generator (Numerical Recipes): the same order everywhere.
let state = 7
const draw = () => {
  state = (1664525 * state + 1013904223) % 4294967296
  return state / 4294967296
}
for (let i = all.length - 1; i > 0; i--) {
  const j = Math.floor(draw() * (i + 1))
  const kept = all[i]
  all[i] = all[j]
  all[j] = kept
}
const folder = join(import.meta.dirname, 'out')
mkdirSync(folder, { recursive: true })
const write = (name, sums) =>
  writeFileSync(join(folder, name), `${sums.map(([a, b]) => record(a, b)).join('\n')}\n`)
write('test.jsonl', all.slice(0, 400))
write('teach.jsonl', all.slice(400, 2400))
write('prompts.jsonl', all.slice(2400, 6400))
