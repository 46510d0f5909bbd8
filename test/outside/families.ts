/**
 * By hand: what transformers answered on random models (families.py) beside our logits, and beside llama.cpp's tokens from the
 * GGUF file that we export. llama.cpp keeps keys and values in F16, so its tokens may part at a near tie; how many agree is
 * printed. Usage: npx tsx test/outside/families.ts FOLDER
 */
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { rivalTokens } from '../../bench/harness/node-llama-cpp.ts'
import { Device } from '../../src/runtime/device.ts'
import { readWithSource } from '../../src/train/export/compare.ts'
import { exportModel } from '../../src/train/export/export.ts'
import { openExportSource } from '../../src/train/export/source.ts'

interface Answers {
  torch: string
  transformers: string
  prompt: number[]
  answers: Record<string, { logits: number[][]; tokens: number[] }>
}

const folder = process.argv[2]!
const device = new Device({ device: 'cpu', threads: 1 })
const { torch, transformers, prompt, answers } = JSON.parse(
  readFileSync(join(folder, 'answers.json'), 'utf8'),
) as Answers
process.stdout.write(`torch ${torch} transformers ${transformers}\n`)
for (const [name, { logits, tokens }] of Object.entries(answers)) {
  const from = join(folder, name)
  const to = join(folder, `${name}.gguf`)
  rmSync(to, { force: true })
  exportModel({ from, to, form: 'gguf', type: 'f32' }, device)
  const apart = [from, to].map((path) => {
    using source = openExportSource(path, undefined)
    const own = readWithSource(source, Int32Array.from(prompt), device).logits
    const theirs = logits.flat()
    const largest = theirs.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    return theirs.reduce((most, value, i) => Math.max(most, Math.abs(value - own[i]!)), 0) / largest
  })
  const others = await rivalTokens(to, prompt, tokens.length)
  const parted = tokens.findIndex((token, i) => token !== others[i])
  const agree = parted < 0 ? tokens.length : parted
  const line = apart.map((one) => one.toExponential(1)).join(' and ')
  process.stdout.write(
    `${name.padEnd(12)} logits apart by ${line} (folder, GGUF) of the largest; ${agree} of ${tokens.length} tokens as llama.cpp's\n`,
  )
}
