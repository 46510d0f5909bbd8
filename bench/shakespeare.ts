/**
 * Trains examples/shakespeare for a few seeds and records each validation loss: nanoGPT's published run gives
 * 1.88. One JSON line a seed. `npx tsx bench/shakespeare.ts TEXT [--seeds 1337,1338,1339] [--threads 1] [--out FILE]`
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { parse } from 'yaml'
import { parseTrainingJob } from '../src/train/job.ts'
import { runTrainingJob } from '../src/train/run-job.ts'
import { describeSetting } from './harness/machine.ts'

const example = join(import.meta.dirname, '..', 'examples', 'shakespeare')

/** Trains once and returns the line that is recorded; `changes` to the job are for a small run. */
export async function trainOnce(text: string, seed: number, threads: number, changes: object = {}) {
  const setting = describeSetting('shakespeare')
  const out = mkdtempSync(join(tmpdir(), 'ropeway-shakespeare-'))
  const file = parse(readFileSync(join(example, 'job.yml'), 'utf8'))
  const job = parseTrainingJob(
    { ...file, data: { ...file.data, text }, seed, threads, out, ...changes },
    example,
  )
  let [elapsedMs, tokens] = [0, 0]
  const curve: [steps: number, validationLoss: number][] = []
  try {
    await runTrainingJob(job, {
      onStep: (report) => {
        elapsedMs += report.elapsedMs
        tokens += report.tokens
      },
      onEvaluation: ({ stepsDone, loss }) => {
        if (loss === undefined) return
        curve.push([stepsDone, Number(loss.toFixed(4))])
        process.stderr.write(`seed ${seed}: ${stepsDone} steps, validation loss ${loss.toFixed(4)}\n`)
      },
    })
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
  return {
    bench: 'shakespeare',
    parameters: { seed, threads, steps: job.steps, evaluationBatches: job.evaluate.final_batches },
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
  for (const seed of values.seeds.split(',').map(Number)) {
    const line = `${JSON.stringify(await trainOnce(resolve(text), seed, Number(values.threads)))}\n`
    process.stdout.write(line)
    if (values.out !== undefined) appendFileSync(values.out, line)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
