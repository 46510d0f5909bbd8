/** Our own trainer as a job of the service: saved on demand, in several processes, and a step of it computed again. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { jobRoom, loopStarters } from '../../src/cli/service-parts.ts'
import { readLedger } from '../../src/train/ledger.ts'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'

const hasMpi = spawnSync('mpirun', ['--version']).status === 0
let bench: Workbench
const loops: { stop(): Promise<void> }[] = []
beforeAll(async () => {
  bench = await workbench(systemClock)
  mkdirSync(join(bench.folder, 'job'))
  writeFileSync(
    join(bench.folder, 'job', 'text.txt'),
    'the moving rope never stops and cabins join it '.repeat(400),
  )
  for (const start of loopStarters) loops.push(await start(bench.parts))
})
afterAll(async () => {
  for (const loop of loops.toReversed()) await loop.stop()
  await bench[Symbol.asyncDispose]()
})

function jobFile(name: string, changes: object): string {
  const path = join(bench.folder, 'job', `${name}.json`)
  const file = {
    name,
    model: { architecture: 'llama', layers: 2, width: 64, heads: 2 },
    data: { text: 'text.txt' },
    ...{ tokenizer: 'characters', context: 64, batch: 4, accumulate: 2, steps: 400, threads: 1 },
    optimizer: { learning_rate: 0.001 },
    // The best one is saved at each evaluation: here only what is asked for is.
    ...{ checkpoint: { every: 1000 }, evaluate: { every: 1000 } },
  }
  writeFileSync(path, JSON.stringify({ ...file, ...changes }))
  return path
}

const view = async (name: string) => (await ropeway(['job', 'view', name, '--json'])).json[0]

async function outputOf(name: string): Promise<string> {
  return jobRoom(bench.parts).folders.output((await view(name)).id)
}

test('a running job saves on demand and goes on, and a step of it computed again has the hash that it had', async () => {
  // Long enough not to end before somebody has looked; it is stopped.
  expect((await ropeway(['train', jobFile('saver', { steps: 100_000 }), '-d'])).code).toBe(0)
  await expect.poll(async () => (await view('saver')).steps_done).toBeGreaterThan(2)
  expect((await ropeway(['job', 'save', 'saver'])).code).toBe(0)
  await expect.poll(async () => (await view('saver')).checkpoint_step).toBeGreaterThan(2)
  const { checkpoint_step: saved, state, saving } = await view('saver')
  expect([state, saving]).toEqual(['running', false])
  await expect.poll(async () => (await view('saver')).steps_done).toBeGreaterThan(saved)
  expect((await ropeway(['job', 'stop', 'saver'])).code).toBe(0)
  await expect.poll(async () => (await view('saver')).state).toBe('stopped')
  expect(await view('saver')).toMatchObject({ attempt: 1 })
  const folder = join(bench.folder, 'service')
  const again = await ropeway(['replay-step', 'saver', String(saved + 1), '--data', folder, '--json'])
  expect(again.code).toBe(0)
  expect(again.json[0]).toMatchObject({ step: saved + 1, from: saved })
  expect(again.json[0].recomputed.hash).toBe(again.json[0].recorded.hash)
  expect(again.json[0].samples.rows.length).toBeGreaterThan(0)
  const elsewhere = await ropeway(['replay-step', 'saver', '1', '--data', join(bench.folder, 'nowhere')])
  expect([elsewhere.code, elsewhere.err]).toEqual([3, expect.stringMatching(/on the machine of the service/)])
})

test.skipIf(!hasMpi)(
  'in two processes a job learns the same bits, and one that is killed is begun again from its checkpoint',
  async () => {
    // Neither is over before somebody has looked; both are stopped.
    const changes = { steps: 1_000_000, checkpoint: { every: 20 } }
    expect((await ropeway(['train', jobFile('two', { ...changes, ranks: 2 }), '-d'])).code).toBe(0)
    await expect.poll(async () => (await view('two')).checkpoint_step).toBeGreaterThan(0)
    const output = await outputOf('two')
    const ranks = spawnSync('pgrep', ['-f', output], { encoding: 'utf8' })
      .stdout.trim()
      .split('\n')
      .map(Number)
    const isRank = (pid: number) => {
      const path = `/proc/${pid}/environ`
      return existsSync(path) && readFileSync(path, 'utf8').includes('COMM_WORLD_RANK=1\0')
    }
    process.kill(ranks.find(isRank)!, 'SIGKILL')
    const stepsOf = async (name: string, attempt: number) => {
      const seen = await view(name)
      return seen.attempt === attempt && seen.state === 'running' ? seen.steps_done : -1
    }
    await expect.poll(() => stepsOf('two', 2)).toBeGreaterThan(0)
    const from = (await view('two')).checkpoint_step
    expect(from).toBeGreaterThan(0)
    const stopBeyond = async (name: string, attempt: number) => {
      await expect.poll(() => stepsOf(name, attempt)).toBeGreaterThan(from + 5)
      expect((await ropeway(['job', 'stop', name])).code).toBe(0)
      await expect.poll(async () => (await view(name)).state).toBe('stopped')
    }
    await stopBeyond('two', 2)
    expect((await ropeway(['train', jobFile('one', { ...changes, ranks: 1 }), '-d'])).code).toBe(0)
    await stopBeyond('one', 1)
    const [one, two] = [readLedger(await outputOf('one')), readLedger(output)]
    const hashes = (ledger: typeof one) =>
      Array.from({ length: from + 5 }, (_, step) => ledger.get(step)!.hash)
    expect(hashes(two)).toEqual(hashes(one))
  },
)

test('several machines are refused with what to do, and so are processes that MPI did not start', async () => {
  const spread = await ropeway(['train', jobFile('spread', { nodes: 2 }), '-d'])
  expect([spread.code, spread.err]).toEqual([2, expect.stringMatching(/nodes[\s\S]*mpirun or Slurm/)])
  const before = { ...process.env }
  Object.assign(process.env, { WORLD_SIZE: '2', RANK: '1' })
  try {
    const foreign = await ropeway(['train', jobFile('foreign', {}), '--here'])
    expect([foreign.code, foreign.err]).toEqual([2, expect.stringMatching(/process 1 of 2[\s\S]*ranks: N/)])
  } finally {
    for (const name of ['WORLD_SIZE', 'RANK'])
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
  }
})
