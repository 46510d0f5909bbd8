import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hashOfFile } from '../../src/base/files.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { checkpointNames } from '../../src/train/checkpoint.ts'
import { ownersOf } from '../../src/train/parallel/team.ts'
import type { JobCallbacks, JobResult } from '../../src/train/run-callbacks.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { channels } from './channels.ts'
import { temporaryFolder } from './temporary-folder.ts'
import { hashOf, tinyJob } from './tiny-job.ts'

const root = temporaryFolder('parallel', afterAll)
const changes = { data_parallel: true, accumulate: 4, steps: 8, checkpoint: { every: 3 } }
let alone: JobResult

beforeAll(async () => {
  alone = await runTrainingJob(tinyJob(join(root, 'alone'), changes))
})

function together(
  folder: string,
  size: number,
  callbacks: JobCallbacks = {},
  signal?: AbortSignal,
  given: Record<string, unknown> = changes,
) {
  return Promise.all(
    channels(size).map((channel) =>
      runTrainingJob(
        tinyJob(join(root, folder), given),
        channel.rank === 0 ? callbacks : {},
        signal,
        channel,
      ),
    ),
  )
}

test('two processes learn a mixture of experts to the bits of one, balance and all', async () => {
  const model = { architecture: 'mixtral', layers: 2, heads: 2, width: 16, feed_forward: 24 }
  const given = { ...changes, model: { ...model, experts: 4, experts_used: 2 }, router_balance: 0.02 }
  const one = await runTrainingJob(tinyJob(join(root, 'mixture-alone'), given))
  const two = await together('mixture-ranks', 2, {}, undefined, given)
  expect(hashOf(two[0]!.folder)).toBe(hashOf(one.folder))
  expect(two[0]!.validationLoss).toBe(one.validationLoss)
})

test.each([2, 4])(
  '%i processes learn the same bits as one, and measure the same held-out loss',
  async (size) => {
    const results = await together(`ranks-${size}`, size)
    expect(results[0]!.outcome).toBe('finished')
    expect(hashOf(results[0]!.folder)).toBe(hashOf(alone.folder))
    expect(results.map(({ validationLoss }) => validationLoss)).toEqual(
      results.map(() => alone.validationLoss),
    )
  },
)

test('a run goes on at another number of processes, and ends with the same bits', async () => {
  for (const [stopAfter, size] of [
    [2, 4],
    [5, 2],
  ] as const) {
    const stop = new AbortController()
    const onStep = ({ step }: { step: number }) => step + 1 === stopAfter && stop.abort()
    const results = await together('elastic', size, { onStep }, stop.signal)
    expect(results.map(({ outcome, stepsDone }) => [outcome, stepsDone])).toEqual(
      results.map(() => ['stopped', stopAfter]),
    )
  }
  const result = await runTrainingJob(tinyJob(join(root, 'elastic'), changes))
  expect(hashOf(result.folder)).toBe(hashOf(alone.folder))
})

describe('adapters', () => {
  let base: string

  beforeAll(async () => {
    const model = { architecture: 'llama', layers: 2, heads: 2, width: 32 }
    base = (await runTrainingJob(tinyJob(join(root, 'base'), { model, steps: 2 }))).folder
  })

  test.each([
    { name: 'rank-stabilised', lora: { rank: 4, alpha: 4, rank_stabilised: true }, precision: 'f32' },
    { name: 'Q4_0 base', lora: { rank: 2, alpha: 4, quantize: 'q4_0' }, precision: 'f32' },
    {
      name: 'DoRA on a Q8_0 base, bf16',
      lora: { rank: 2, alpha: 4, dora: true, quantize: 'q8_0' },
      precision: 'bf16',
    },
  ])('($name) learn the same bits in two processes as in one', async ({ name, lora, precision }) => {
    const given = { ...changes, model: { from: base }, tokenizer: undefined, method: { lora }, precision }
    const one = await runTrainingJob(tinyJob(join(root, `${name} alone`), given))
    const [first] = await together(`${name} shared`, 2, {}, undefined, given)
    expect(first!.outcome).toBe('finished')
    for (const file of ['adapter_model.safetensors', 'optimizer.safetensors'])
      expect(hashOfFile(join(first!.folder, file))).toBe(hashOfFile(join(one.folder, file)))
    expect(first!.validationLoss).toBe(one.validationLoss)
  })
})

test('processes that cannot share a step are refused', async () => {
  const job = tinyJob(join(root, 'refused'), { ...changes, accumulate: 3 })
  const [first] = channels(2)
  await expect(runTrainingJob(job, {}, undefined, first)).rejects.toThrow(/cannot share the 3 micro-batches/)
  const plain = tinyJob(join(root, 'plain'), { accumulate: 2 })
  await expect(runTrainingJob(plain, {}, undefined, first)).rejects.toThrow(/does not say data_parallel/)
})

test('every parameter has one owner, and no rank keeps much more than its share', () => {
  const sizes = [100, 1, 1, 50, 50, 30, 30, 30, 8]
  const owners = ownersOf(sizes, 3)
  const loads = [0, 1, 2].map((rank) => sizes.reduce((sum, n, i) => sum + (owners[i] === rank ? n : 0), 0))
  expect(loads).toEqual([100, 110, 90])
})

const hasMpi = spawnSync('mpirun', ['--version']).status === 0

describe.skipIf(!hasMpi)('Open MPI (skipped where mpirun is not installed)', () => {
  const child = join(import.meta.dirname, 'mpi-child.ts')

  async function started(folder: string, size: number, ...more: string[]): Promise<number | null> {
    tinyJob(join(root, folder), changes)
    const options = ['--allow-run-as-root', '--oversubscribe', '--bind-to', 'none', '-n', String(size)]
    const command = [process.execPath, ...runnerOf(child), child, join(root, folder), JSON.stringify(changes)]
    const running = spawn('mpirun', [...options, ...command, ...more], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    running.stderr.resume()
    const [code] = (await once(running, 'exit')) as [number | null]
    return code
  }

  test('two real processes learn the same bits as one', async () => {
    expect(await started('mpi', 2)).toBe(0)
    const result = await runTrainingJob(tinyJob(join(root, 'mpi'), changes))
    expect(hashOf(result.folder)).toBe(hashOf(alone.folder))
  })

  test('one that dies ends the job, which goes on from its newest checkpoint in one process', async () => {
    expect(await started('mpi-dead', 2, '1', '5')).not.toBe(0)
    const names = checkpointNames(join(root, 'mpi-dead', 'out', 'checkpoints'))
    const starts: number[] = []
    const onStart = ({ stepsDone }: { stepsDone: number }) => starts.push(stepsDone)
    const result = await runTrainingJob(tinyJob(join(root, 'mpi-dead'), changes), { onStart })
    expect(starts).toEqual([Number(names.at(-1)?.slice('step-'.length) ?? 0)])
    expect(hashOf(result.folder)).toBe(hashOf(alone.folder))
  })
})
