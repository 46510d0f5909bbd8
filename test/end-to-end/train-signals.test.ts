import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { checkpointNames } from '../../src/train/checkpoint.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'

const root = temporaryFolder('signals', afterAll)
const main = join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.ts')

interface Event {
  event: string
  step?: number
  stepsDone?: number
  outcome?: string
}

/** Runs the command line; `onEvent` may send signals. */
async function run(
  args: readonly string[],
  onEvent: (event: Event, send: (s: NodeJS.Signals) => void) => unknown,
  env: Readonly<Record<string, string>> = {},
) {
  const running = spawn(process.execPath, [...runnerOf(main), main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
  let errors = ''
  running.stderr.on('data', (data) => {
    errors += data
  })
  const events: Event[] = []
  createInterface({ input: running.stdout }).on('line', (line) => {
    const event = JSON.parse(line) as Event
    events.push(event)
    onEvent(event, (signal) => running.kill(signal))
  })
  const [code] = (await once(running, 'close')) as [number | null]
  return { code, events, errors }
}

function jobFile(name: string, text = 'text.txt'): string {
  const path = join(root, `${name}.json`)
  writeFileSync(join(root, 'text.txt'), 'the moving rope never stops and cabins join it '.repeat(400))
  writeFileSync(
    path,
    JSON.stringify({
      model: { architecture: 'llama', layers: 2, width: 64, heads: 2 },
      data: { text },
      ...{ tokenizer: 'characters', context: 64, batch: 8, out: name, threads: 1 },
      // Nobody is so late with a signal that it is over.
      steps: 1_000_000,
      optimizer: { learning_rate: 0.001 },
      ...{ checkpoint: { every: 1_000_000 }, evaluate: { every: 1_000_000 } },
    }),
  )
  return path
}

test('SIGUSR2 makes a checkpoint and training goes on; SIGTERM makes one within a step and ends', async () => {
  const seen: number[] = []
  let lastStep = 0
  let endAsked: number | undefined
  const { code, events, errors } = await run(
    ['train', jobFile('signals'), '--here', '--json'],
    (event, send) => {
      if (event.event === 'step') lastStep = event.step!
      if (event.event === 'step' && event.step === 3) send('SIGUSR2')
      if (event.event === 'checkpoint') seen.push(event.stepsDone!)
      if (event.event !== 'checkpoint' || endAsked !== undefined) return
      endAsked = lastStep
      send('SIGTERM')
    },
  )
  expect([code, errors.includes('bug')]).toEqual([130, false])
  expect(seen[0]).toBeGreaterThan(3)
  const end = events.at(-1)!
  expect(end).toMatchObject({ event: 'end', outcome: 'stopped' })
  expect(seen.at(-1)).toBe(end.stepsDone)
  // The step in hand when the signal came, and those that were on their way to us.
  const done = events.filter(({ event }) => event === 'step').at(-1)!.step! + 1
  expect(end.stepsDone).toBe(done)
  expect(checkpointNames(join(root, 'signals', 'checkpoints'))).toHaveLength(2)

  const replay = await run(['replay-step', join(root, 'signals'), '2', '--json'], () => undefined)
  expect(replay.code).toBe(0)
  expect(replay.events[0]).toMatchObject({ step: 2, from: 0 })
})

test('a signal that ends a compiler with the run is no failure of the compiler', async () => {
  const [compiler, once] = [join(root, 'stopped-cxx'), join(root, 'told')]
  const lines = [
    'case "$*" in --version) echo "stopped 1.0"; exit 0;; *probe.cpp*) exit 0;; esac',
    `[ -e '${once}' ] || { : > '${once}'; kill -TERM $PPID; }`,
    // As long as a compiler takes, at least for a pause to be one.
    'sleep 1; kill -TERM $$',
  ]
  writeFileSync(compiler, ['#!/bin/sh', ...lines, ''].join('\n'), { mode: 0o755 })
  const { code, events, errors } = await run(
    ['train', jobFile('compiling'), '--here', '--json'],
    () => undefined,
    { CXX: compiler, XDG_CACHE_HOME: join(root, 'cache'), ROPEWAY_KERNELS: '' },
  )
  expect(existsSync(once)).toBe(true)
  expect(code).toBe(130)
  expect(errors).toContain('before the first step')
  expect(errors + JSON.stringify(events)).not.toContain('failed')
})

test('SIGINT ends the preparation of data, however much there is, and says so', async () => {
  writeFileSync(join(root, 'large.txt'), 'the moving rope never stops\n')
  // Nobody gets through these zeros, and they take no room.
  truncateSync(join(root, 'large.txt'), 2 ** 40)
  const { code, events, errors } = await run(
    ['train', jobFile('prepared', 'large.txt'), '--here', '--json'],
    ({ event }, send) => event === 'note' && send('SIGINT'),
  )
  expect(errors).toMatch(/Stopped while the run was prepared, before the first step/)
  expect([code, events.map(({ event }) => event)]).toEqual([130, ['note']])
})
