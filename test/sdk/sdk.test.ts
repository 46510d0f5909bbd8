/** Both SDKs, under `ropeway train FILE --here` and without any service: the same program, the same results. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { readEvents } from '../../src/control/jobs/contract-events.ts'
import { listCheckpoints, newestWhole } from '../../src/control/jobs/output-checkpoints.ts'

const root = join(import.meta.dirname, '..', '..')
const programs = join(import.meta.dirname, 'programs')
const hasPython = spawnSync('python3', ['--version']).status === 0
const languages: Record<string, string[]> = {
  python: ['python3', join(programs, 'count.py')],
  typescript: [process.execPath, ...runnerOf('count.ts'), join(programs, 'count.ts')],
}
/** What 12 steps make of 1, whoever computes them and however often he dies. */
const finalState = Array.from({ length: 12 }).reduce<number>(
  (state, _, step) => (state * 31 + step + 7) % 1000003,
  1,
)

interface Room extends Disposable {
  folder: string
  out: string
}

function room(): Room {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-sdk-'))
  return {
    folder,
    out: join(folder, 'out'),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }),
  }
}

function jobFile({ folder }: Room, job: object): string {
  const path = join(folder, 'job.yml')
  writeFileSync(path, JSON.stringify(job))
  return path
}

function train(file: string, ...flags: string[]): ChildProcess & { text: () => string } {
  const program = join(import.meta.dirname, 'train-child.ts')
  const child = spawn(process.execPath, [...runnerOf(program), program, file, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => (text += bytes))
  return Object.assign(child, { text: () => text })
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  return child.exitCode
}

function heard(child: ReturnType<typeof train>, words: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = () => child.text().includes(words) && resolve()
    child.stdout!.on('data', look)
    child.stderr!.on('data', look)
    child.on('close', () => reject(new Error(`it ended without saying ${words}: ${child.text()}`)))
  })
}

const steps = (out: string) => listCheckpoints(out).map(({ step }) => step)

for (const [language, command] of Object.entries(languages)) {
  const skip = language === 'python' && !hasPython
  const run = skip ? test.skip : test.concurrent

  run(
    `${language}: a program that is killed goes on from its newest whole checkpoint to the same end`,
    async () => {
      using place = room()
      const dying = jobFile(place, { run: command, env: { DIE_AT: 8 } })
      const first = train(dying)
      expect(await exitOf(first)).toBe(1)
      expect(first.text()).toContain('SIGKILL')
      expect(steps(place.out)).toEqual([3, 6])
      // The newest is damaged: the one before it is as good as any.
      writeFileSync(join(place.out, 'checkpoints', 'step-000006', 'state.json'), '{"state": 5}')
      const second = train(jobFile(place, { run: command }))
      expect(await exitOf(second)).toBe(0)
      expect(second.text()).toContain('is damaged (state.json has')
      expect(second.text()).toContain(`state ${finalState} after 12`)
      // keep: 3
      expect(steps(place.out)).toEqual([6, 9, 12])
      expect((await newestWhole(place.out, () => undefined))?.step).toBe(12)
    },
  )

  run(`${language}: damaged checkpoints of later steps take no new one's place`, async () => {
    using place = room()
    const later = [13, 14, 15]
    for (const step of later) {
      const folder = join(place.out, 'checkpoints', `step-0000${step}`)
      mkdirSync(folder, { recursive: true })
      writeFileSync(join(folder, 'state.json'), '{"state": 5}')
    }
    expect(await exitOf(train(jobFile(place, { run: command })))).toBe(0)
    expect(steps(place.out)).toEqual([6, 9, 12, ...later])
    expect((await newestWhole(place.out, () => undefined))?.step).toBe(12)
  })

  run(
    `${language}: SIGTERM gives an emergency checkpoint within one step, from which it goes on`,
    async () => {
      using place = room()
      const first = train(jobFile(place, { run: command, env: { WAIT_AT: 4 } }))
      await heard(first, 'waiting')
      first.kill('SIGTERM')
      expect(await exitOf(first)).toBe(130)
      expect(steps(place.out)).toEqual([3, 4])
      expect(existsSync(join(place.out, 'emergency-save'))).toBe(false)
      const second = train(jobFile(place, { run: command }))
      expect(await exitOf(second)).toBe(0)
      expect(second.text()).toContain(`state ${finalState} after 12`)
    },
  )

  run(
    `${language}: events are those of the contract, heartbeats with step times and NaN included`,
    async () => {
      using place = room()
      expect(await exitOf(train(jobFile(place, { run: command })))).toBe(0)
      const { events, rejected } = readEvents(join(place.out, 'events-1-0.jsonl'), 0)
      expect(rejected).toBe(0)
      expect(events[0]).toMatchObject({ event: 'start', total_steps: 12, steps_done: 0, rank: 0 })
      const losses = events.flatMap((event) => (event.event === 'metrics' ? [event.values.loss] : []))
      expect(losses).toHaveLength(12)
      expect(String(losses[1]).toLowerCase()).toBe('nan')
      expect(losses[3]).toBe(0.25)
      const beats = events.flatMap((event) => (event.event === 'heartbeat' ? [event] : []))
      expect(beats.at(-1)?.step).toBe(12)
      expect(beats.every(({ step_ms }) => step_ms > 0)).toBe(true)
      const saved = events.flatMap((event) => (event.event === 'checkpoint' ? [event.step] : []))
      expect(saved).toEqual([3, 6, 9, 12])
    },
  )

  run(`${language}: every rank knows itself, and one that fails ends the others`, async () => {
    using place = room()
    const all = train(jobFile(place, { run: command, processes: 2 }))
    expect(await exitOf(all)).toBe(0)
    expect(all.text()).toContain(`[0] state ${finalState} after 12 of rank 0/2`)
    expect(all.text()).toContain('after 12 of rank 1/2')
    using other = room()
    const env = { FAIL_RANK: 1 }
    const failing = train(jobFile(other, { run: command, processes: 2, env }))
    expect(await exitOf(failing)).toBe(1)
    expect(failing.text()).toContain('Rank 1 ended with code 9.')
  })

  run(`${language}: a program that gives up says why, and that it would do so again`, async () => {
    using place = room()
    const failing = train(jobFile(place, { run: command, env: { HOPELESS_AT: 5 } }))
    expect(await exitOf(failing)).toBe(1)
    expect(failing.text()).toMatch(/^The count is wrong at 5\. \S+ ended with code 1\.$/m)
    const { events } = readEvents(join(place.out, 'events-1-0.jsonl'), 0)
    expect(events.at(-1)).toMatchObject({ event: 'failure', text: 'The count is wrong at 5.', final: true })
  })

  run(`${language}: the same program runs and resumes on a laptop without Ropeway`, async () => {
    using place = room()
    const environment = { ...process.env, PYTHONPATH: join(root, 'sdk', 'python') }
    const alone = (more: object) =>
      spawnSync(command[0]!, command.slice(1), {
        cwd: place.folder,
        env: { ...environment, ...more },
        encoding: 'utf8',
      })
    expect(alone({ DIE_AT: '7' }).signal).toBe('SIGKILL')
    const { stdout, status } = alone({})
    expect(status).toBe(0)
    expect(stdout).toContain(`state ${finalState} after 12 of rank 0/1`)
    expect(readdirSync(place.folder)).toEqual(['ropeway-out'])
  })
}

test('a command line is not given to a shell, and says so', async () => {
  using place = room()
  for (const [line, reason] of [
    ['python3 a.py && rm b', 'only a shell understands'],
    ['echo "x', 'without its partner'],
    ['  ', 'names no program'],
  ]) {
    const child = train(jobFile(place, { run: line }))
    expect(await exitOf(child)).toBe(2)
    expect(child.text()).toContain('The field run')
    expect(child.text()).toContain(reason)
  }
})

test('a job that runs a command refuses fields that it does not know and variables that are not its own', async () => {
  using place = room()
  const refused = async (job: object) => {
    const child = train(jobFile(place, job))
    expect(await exitOf(child)).toBe(2)
    return child.text()
  }
  expect(await refused({ run: 'true', stpes: 3 })).toContain('stpes is not a field')
  expect(await refused({ run: 'true', env: { RANK: 3 } })).toContain('env.RANK is not right')
})

test.skipIf(!hasPython)('the example learns by the command that its file names', async () => {
  using place = room()
  const example = join(root, 'examples', 'any-code', 'job.yml')
  const main = join(root, 'src', 'cli', 'main.ts')
  const line = [...runnerOf(main), main, 'train', example, '--here', '--json']
  const child = spawn(process.execPath, [...line, '--out', place.out], { stdio: 'ignore' })
  expect(await exitOf(child)).toBe(0)
  const { events } = readEvents(join(place.out, 'events-1-0.jsonl'), 0)
  const losses = events.flatMap((event) => (event.event === 'metrics' ? [Number(event.values.loss)] : []))
  expect(losses.at(-1)!).toBeLessThan(losses[0]! * 0.8)
  expect(readFileSync(join(place.out, 'checkpoints', 'step-000200', 'ropeway.json'), 'utf8')).toContain(
    'sha256',
  )
})
