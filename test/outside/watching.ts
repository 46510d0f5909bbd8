/**
 * Writes what a run of 1,500 steps writes for TensorBoard and W&B, in two lives, and lets their own programs read it
 * (watching.py). By hand, in an environment with `tensorboard` and `wandb`:
 * `npx tsx test/outside/watching.ts --python PATH > test/outside/watching.txt`
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { RunEvent, Sink } from '../../src/train/watch/sink.ts'
import { TensorBoardFile } from '../../src/train/watch/tensorboard.ts'
import { WandbFile } from '../../src/train/watch/wandb.ts'

const { values } = parseArgs({ options: { python: { type: 'string', default: 'python3' } } })
const folder = mkdtempSync(join(tmpdir(), 'ropeway-watching-'))

async function life(sinks: readonly Sink[], from: number, to: number, startMs: number): Promise<void> {
  const settings = { batch: 3, optimizer: { learning_rate: 0.01 } }
  const start: RunEvent = {
    ...{
      kind: 'start',
      atMs: startMs,
      run: 'abcd1234',
      name: 'whale',
      steps: 1500,
      stepsDone: from,
      settings,
    },
  }
  const points = Array.from({ length: to - from }, (_, i): RunEvent => {
    const step = from + i + 1
    const loss = 4 / Math.sqrt(step)
    return { kind: 'metrics', atMs: startMs + 100 * (i + 1), step, values: { loss, learning_rate: 0.01 } }
  })
  const end: RunEvent = { kind: 'end', atMs: startMs + 200_000, outcome: 'finished', step: to }
  const signal = new AbortController().signal
  for (const sink of sinks) await sink.write([start, ...points, end], signal)
}

try {
  const times = [1_700_000_000_000, 1_700_001_000_000] as const
  const board = join(folder, 'tensorboard')
  // The second life begins before the first one ended: TensorBoard must forget steps 901 to 1000 of the first.
  const wandb = times.map((time) => new WandbFile(folder, 'abcd1234', time, { project: 'ropeway' }))
  await life([new TensorBoardFile(board, times[0]), wandb[0]!], 0, 1000, times[0])
  await life([new TensorBoardFile(board, times[1]), wandb[1]!], 900, 1500, times[1])
  const script = join(import.meta.dirname, 'watching.py')
  const files = wandb.map((file) => join(file.folder, 'run-abcd1234.wandb'))
  const run = spawnSync(values.python, [script, board, ...files], { encoding: 'utf8' })
  process.stdout.write(run.stdout)
  if (run.status !== 0) {
    process.stderr.write(run.stderr)
    process.exitCode = 1
  }
} finally {
  rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
}
