/**
 * Trains examples/shakespeare for a few seeds and records each validation loss: nanoGPT's published run gives
 * 1.88. One JSON line a seed. `npx tsx bench/shakespeare.ts TEXT [--seeds 1337,1338,1339] [--threads 1]
 * [--precision bf16] [--folder F] [--out FILE]`; with a folder, SIGTERM saves there and the same command goes on.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { parse } from 'yaml'
import { isInterruption } from '../src/base/errors.ts'
import { parseTrainingJob } from '../src/train/job.ts'
import type { JobCallbacks } from '../src/train/run-callbacks.ts'
import { runTrainingJob } from '../src/train/run-job.ts'
import { describeSetting } from './harness/machine.ts'

const example = join(import.meta.dirname, '..', 'examples', 'shakespeare')

/** What is carried from one life of a run to the next. */
interface Progress {
  elapsedMs: number
  tokens: number
  curve: [steps: number, validationLoss: number][]
}

/**
 * Trains once and returns the line that is recorded, or undefined when it was stopped; `changes` to the job are for a
 * small run. What is in `folder` is gone on from.
 */
export async function trainOnce(
  text: string,
  seed: number,
  threads: number,
  changes: object = {},
  folder?: string,
  signal?: AbortSignal,
) {
  const setting = describeSetting('shakespeare')
  const out = folder ?? mkdtempSync(join(tmpdir(), 'ropeway-shakespeare-'))
  mkdirSync(out, { recursive: true })
  const kept = join(out, 'bench.json')
  const progress: Progress = existsSync(kept)
    ? JSON.parse(readFileSync(kept, 'utf8'))
    : { elapsedMs: 0, tokens: 0, curve: [] }
  const { curve } = progress
  const file = parse(readFileSync(join(example, 'job.yml'), 'utf8'))
  const job = parseTrainingJob(
    { ...file, data: { ...file.data, text }, seed, threads, out, ...changes },
    example,
  )
  try {
    const callbacks: JobCallbacks = {
      onStep: (report) => {
        progress.elapsedMs += report.elapsedMs
        progress.tokens += report.tokens
      },
      onEvaluation: ({ stepsDone, loss }) => {
        if (loss === undefined) return
        curve.push([stepsDone, Number(loss.toFixed(4))])
        writeFileSync(kept, JSON.stringify(progress))
        process.stderr.write(`seed ${seed}: ${stepsDone} steps, validation loss ${loss.toFixed(4)}\n`)
      },
    }
    const { outcome } = await runTrainingJob(job, callbacks, signal)
    writeFileSync(kept, JSON.stringify(progress))
    if (outcome === 'stopped') return undefined
  } catch (error) {
    // A stop while the data is prepared is told by an error; it is the same to whoever goes on later.
    if (!isInterruption(error)) throw error
    return undefined
  } finally {
    if (folder === undefined) rmSync(out, { recursive: true, force: true })
  }
  const { elapsedMs, tokens } = progress
  return {
    bench: 'shakespeare',
    parameters: {
      ...{ seed, threads, precision: job.precision },
      ...{ steps: job.steps, evaluationBatches: job.evaluate.final_batches },
    },
    figures: {
      validationLoss: curve.at(-1)![1],
      trainingTokensPerSecond: Math.round((tokens / elapsedMs) * 1000),
      trainingSeconds: Math.round(elapsedMs / 1000),
    },
    curve,
    setting: setting.end({}),
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seeds: { type: 'string', default: '1337,1338,1339' },
      threads: { type: 'string', default: '1' },
      precision: { type: 'string', default: 'f32' },
      folder: { type: 'string' },
      out: { type: 'string' },
    },
  })
  const text = positionals[0]
  if (text === undefined) {
    process.stderr.write(
      'Give the path of tinyshakespeare.txt; examples/shakespeare/README.md says where it is.\n',
    )
    process.exitCode = 2
    return
  }
  const stop = new AbortController()
  process.once('SIGTERM', () => stop.abort())
  const { precision, threads } = values
  for (const seed of values.seeds.split(',').map(Number)) {
    const folder = values.folder && join(resolve(values.folder), `${precision}-${seed}`)
    const record = await trainOnce(resolve(text), seed, Number(threads), { precision }, folder, stop.signal)
    if (record === undefined) return
    const line = `${JSON.stringify(record)}\n`
    process.stdout.write(line)
    if (values.out !== undefined) appendFileSync(values.out, line)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
