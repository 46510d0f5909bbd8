import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, expect, test } from 'vitest'
import { checkpointNames } from '../../src/train/checkpoint.ts'
import { parseTrainingJob } from '../../src/train/job.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'
import { hashOf } from '../train/tiny-job.ts'

const root = temporaryFolder('ranks', afterAll)
const ropeway = join(import.meta.dirname, '..', '..', 'bin', 'ropeway.js')
const hasMpi = spawnSync('mpirun', ['--version']).status === 0

interface Event {
  event: string
  step?: number
  stepsDone?: number
}

const fields = (ranks: number, out: string) => ({
  model: { architecture: 'llama', layers: 2, width: 32, heads: 2 },
  data: { text: 'text.txt', validation: 0.1 },
  ...{ tokenizer: 'characters', context: 32, batch: 2, accumulate: 4, out, ranks },
  // It is not over before somebody has looked, however late that is.
  steps: 1_000_000,
  optimizer: { learning_rate: 0.001 },
  evaluate: { every: 1_000_000 },
  checkpoint: { every: 20 },
})

/** Runs the command line with so many ranks; `onStep` may end some of its processes. */
async function run(ranks: number, onStep: (step: number, pid: number) => void) {
  const path = join(root, 'job.yml')
  writeFileSync(path, JSON.stringify(fields(ranks, 'shared')))
  const running = spawn(process.execPath, [ropeway, 'train', path, '--here', '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.stderr.resume()
  const events: Event[] = []
  createInterface({ input: running.stdout }).on('line', (line) => {
    if (!line.startsWith('{')) return
    const event = JSON.parse(line) as Event
    events.push(event)
    if (event.event === 'step') onStep(event.step!, running.pid!)
  })
  const [code] = (await once(running, 'close')) as [number | null]
  return { code, start: events.find(({ event }) => event === 'start')?.stepsDone }
}

/** The checkpoint after `last` steps in this process. */
async function inOne(out: string, last: number): Promise<string> {
  const stop = new AbortController()
  const onStep = ({ step }: { step: number }) => step + 1 === last && stop.abort()
  const job = parseTrainingJob(fields(1, out), root)
  const { folder, stepsDone } = await runTrainingJob(job, { onStep }, stop.signal)
  expect(stepsDone).toBe(last)
  return folder
}

/** The process of this test's run that has that rank. */
function processOf(rank: number): number {
  const found = spawnSync('pgrep', ['-f', join(root, 'job.yml')], { encoding: 'utf8' }).stdout.split('\n')
  const isIt = (id: string) =>
    spawnSync('cat', [`/proc/${id}/environ`], { encoding: 'utf8' }).stdout.includes(
      `COMM_WORLD_RANK=${rank}\0`,
    )
  return Number(found.find((id) => id !== '' && isIt(id)))
}

test.skipIf(!hasMpi)(
  'ranks in a job file are processes: one that is killed ends the run cleanly, SIGTERM saves, and any number goes on to the same bits',
  async () => {
    writeFileSync(join(root, 'text.txt'), 'the moving rope never stops and cabins join it '.repeat(400))
    const killed = await run(2, (step) => step === 45 && process.kill(processOf(1), 'SIGKILL'))
    expect(killed).toMatchObject({ start: 0 })
    expect(killed.code).not.toBe(0)
    expect(spawnSync('pgrep', ['-f', join(root, 'job.yml')]).status).toBe(1)
    const newest = () =>
      Number(
        checkpointNames(join(root, 'shared', 'checkpoints'))
          .at(-1)!
          .slice(5),
      )
    // What the ranks say comes late: they may have been some steps further.
    expect(newest()).toBeGreaterThanOrEqual(40)

    const before = newest()
    let sent = false
    const stopped = await run(4, (step, pid) => {
      if (step < before + 5 || sent) return
      sent = true
      process.kill(pid, 'SIGTERM')
    })
    expect(stopped).toEqual({ code: 130, start: before })
    expect(newest()).toBeGreaterThan(before + 5)

    const last = newest() + 5
    const [goneOn, alone] = [await inOne('shared', last), await inOne('alone', last)]
    expect(hashOf(goneOn)).toBe(hashOf(alone))
  },
)
