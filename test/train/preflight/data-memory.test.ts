import { execFileSync } from 'node:child_process'
import { closeSync, openSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runnerOf } from '../../../src/base/processes.ts'
import { Random } from '../../../src/base/random.ts'
import { testFolder } from '../data/folder.ts'

const folder = testFolder()
const child = join(import.meta.dirname, 'data-child.ts')
const heapMegabytes = 48
/** A piece of text and what stands around it; the text has 52 MB, its tokens twice as much. */
const growthBytes = 24 << 20

const random = new Random(8)
const letters = (count: number) =>
  Array.from({ length: count }, () => String.fromCharCode(97 + random.integer(26))).join('')
const stock = Array.from({ length: 500 }, () => letters(900).replace(/(.{6})/g, '$1 '))
let written = 0
/** A thousand characters, never the same. */
const passage = () => `${written++} ${stock[written % stock.length]}`

function write(name: string, megabytes: number, record: () => string): string {
  const file = openSync(join(folder, name), 'w')
  for (let bytes = 0; bytes < megabytes * 1e6; ) {
    let part = ''
    while (part.length < 1 << 20) part += record()
    bytes += writeSync(file, part)
  }
  closeSync(file)
  return name
}

function run(data: Record<string, unknown>) {
  const job = {
    model: { architecture: 'gpt2', layers: 1, heads: 1, width: 8 },
    data,
    tokenizer: 'characters',
    ...{ context: 64, batch: 2, steps: 1 },
    optimizer: { learning_rate: 0.1 },
  }
  const args = [
    `--max-old-space-size=${heapMegabytes}`,
    '--expose-gc',
    ...runnerOf(child),
    child,
    JSON.stringify(job),
    folder,
  ]
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as {
    mostBytes: number
    looks: number
    records: number
    trainingTokens: number
    validationTokens: number
  }
}

test('a text larger than the heap is prepared in memory that does not grow with it', () => {
  const [few, many] = [5, 52].map((megabytes) => write(`${megabytes}.txt`, megabytes, () => `${passage()}\n`))
  const small = run({ text: few })
  const large = run({ text: many })
  const bytes = statSync(join(folder, many!)).size
  expect(bytes).toBeGreaterThan(heapMegabytes << 20)
  expect(large.trainingTokens + large.validationTokens).toBe(bytes)
  expect(large.looks).toBeGreaterThan(5)
  expect(large.mostBytes - small.mostBytes).toBeLessThan(growthBytes)
})

test('so are records', () => {
  const record = () => `${JSON.stringify({ text: passage() })}\n`
  const [few, many] = [5, 52].map((megabytes) => write(`${megabytes}.jsonl`, megabytes, record))
  const small = run({ train: few })
  const large = run({ train: many })
  expect(statSync(join(folder, many!)).size).toBeGreaterThan(heapMegabytes << 20)
  expect(large.records).toBeGreaterThan(9 * small.records)
  expect(large.looks).toBeGreaterThan(5)
  expect(large.mostBytes - small.mostBytes).toBeLessThan(growthBytes)
})
