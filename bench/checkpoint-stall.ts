/**
 * How long training stands still for checkpoints that are written beside it, as a share of the time between two of
 * them: `npx tsx bench/checkpoint-stall.ts [--size large] [--out FILE]`
 */
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { parseTrainingJob } from '../src/train/job.ts'
import { runTrainingJob } from '../src/train/run-job.ts'
import { describeSetting } from './harness/machine.ts'

export const sizes = {
  /** Runs in `npm test`. */
  small: { layers: 1, width: 16, batch: 2, context: 8, steps: 6, every: 2 },
  large: { layers: 6, width: 512, batch: 2, context: 128, steps: 201, every: 100 },
}

export interface Stall {
  parameters: number
  checkpoints: number
  /** Of one checkpoint, the longest. */
  stallMs: number
  writeMs: number
  /** All stalls over the time of the whole run. */
  stallPercent: number
  /** The same with what steps took longer beside a checkpoint that is being written. */
  costPercent: number
}

export async function measure(size: (typeof sizes)['small']): Promise<Stall> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-stall-'))
  try {
    writeFileSync(join(folder, 'text.txt'), 'the moving rope never stops and cabins join it '.repeat(2000))
    const { layers, width, batch, context, steps, every } = size
    const job = parseTrainingJob(
      {
        model: { architecture: 'llama', layers, width, heads: 4 },
        data: { text: 'text.txt', validation: 0 },
        ...{ tokenizer: 'characters', context, batch, steps },
        optimizer: { learning_rate: 0.001 },
        checkpoint: { every, keep: 1 },
      },
      folder,
    )
    const saves: { stepsDone: number; stallMs: number; writeMs: number; atMs: number }[] = []
    const stepEndsMs: { ms: number; atMs: number }[] = []
    let parameters = 0
    let startMs = 0
    await runTrainingJob(job, {
      onStart: (start) => {
        parameters = start.parameters
        startMs = performance.now()
      },
      onStep: ({ elapsedMs }) => stepEndsMs.push({ ms: elapsedMs, atMs: performance.now() }),
      onCheckpoint: (saved) => saves.push({ ...saved, atMs: performance.now() }),
    })
    const usualMs = median(stepEndsMs)
    const wholeMs = stepEndsMs.at(-1)!.atMs - startMs
    // The last one is waited for: there is no training left beside it.
    const beside = saves.filter(({ stepsDone }) => stepsDone < steps)
    const isBeside = ({ ms, atMs }: { ms: number; atMs: number }) =>
      beside.some((save) => atMs > save.atMs - save.writeMs && atMs - ms < save.atMs)
    const stallsMs = beside.reduce((sum, { stallMs }) => sum + stallMs, 0)
    const slowerMs = stepEndsMs.filter(isBeside).reduce((sum, { ms }) => sum + ms - usualMs, 0)
    return {
      parameters,
      checkpoints: beside.length,
      stallMs: Math.max(...beside.map(({ stallMs }) => stallMs)),
      writeMs: Math.max(...beside.map(({ writeMs }) => writeMs)),
      stallPercent: (100 * stallsMs) / wholeMs,
      costPercent: (100 * (stallsMs + slowerMs)) / wholeMs,
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function median(steps: readonly { ms: number }[]): number {
  const sorted = steps.map(({ ms }) => ms).sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? Number.NaN
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { size: { type: 'string', default: 'large' }, out: { type: 'string' } },
  })
  const parameters = sizes[values.size === 'small' ? 'small' : 'large']
  const setting = describeSetting('none')
  const figures = await measure(parameters)
  const line = JSON.stringify({
    bench: 'checkpoint-stall',
    parameters,
    setting: setting.end({}),
    figures,
  })
  console.log(line)
  if (values.out !== undefined) appendFileSync(values.out, `${line}\n`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
