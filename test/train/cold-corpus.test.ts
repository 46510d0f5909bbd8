import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { temporaryFolder } from './temporary-folder.ts'
import { hashOf, tinyJob } from './tiny-job.ts'

const root = temporaryFolder('cold-corpus', afterAll)
const child = join(import.meta.dirname, 'cold-corpus-child.ts')
const changes = { data_parallel: true, accumulate: 2, steps: 4 }
let expected: string

beforeAll(async () => {
  expected = hashOf((await runTrainingJob(tinyJob(join(root, 'warm'), changes))).folder)
})

interface Said {
  pid: number
  text: string
}

/** What processes say, in the order in which it is heard; whoever waits for a sentence gets it once it was said. */
class Listener {
  readonly said: Said[] = []
  #onSaid: () => void = () => undefined

  listenTo({ stdout }: ChildProcess): void {
    createInterface({ input: stdout! }).on('line', (line) => {
      const [pid, ...words] = line.split(' ')
      this.said.push({ pid: Number(pid), text: words.join(' ') })
      this.#onSaid()
    })
  }

  async hear(pattern: RegExp): Promise<Said> {
    for (;;) {
      const found = this.said.find(({ text }) => pattern.test(text))
      if (found !== undefined) return found
      await new Promise<void>((resolve) => {
        this.#onSaid = resolve
      })
    }
  }

  /** Who said so, once for each time. */
  speakers(pattern: RegExp): number[] {
    return this.said.filter(({ text }) => pattern.test(text)).map(({ pid }) => pid)
  }
}

/** Folders of the cache by kind, with what was begun and not ended. */
function kept(folder: string): Record<string, number> {
  const of = (kind: string) =>
    readdirSync(join(folder, 'cache', kind)).filter((name) => name !== '.turns').length
  return { tokenizers: of('tokenizers'), texts: of('texts') }
}

const childOf = (folder: string, out: string) => [
  ...runnerOf(child),
  child,
  folder,
  JSON.stringify({ ...changes, out }),
  join(folder, 'gate'),
]

/** A process that trains alone, in a folder of its own, on the corpus in `folder`. */
function started(folder: string, out: string, listener: Listener): ChildProcess {
  const running = spawn(process.execPath, childOf(folder, out), { stdio: ['ignore', 'pipe', 'inherit'] })
  listener.listenTo(running)
  return running
}

async function codeOf(running: ChildProcess): Promise<number | null> {
  // Its last lines may come after its exit.
  const [code] = (await once(running, 'close')) as [number | null]
  return code
}

const hashIn = async (folder: string, out: string) =>
  hashOf((await runTrainingJob(tinyJob(folder, { ...changes, out }))).folder)

test('a corpus whose maker is killed is made by the process that waited for it', async () => {
  const folder = join(root, 'killed')
  tinyJob(folder, changes)
  const listener = new Listener()
  const processes = [started(folder, 'a', listener), started(folder, 'b', listener)]
  const ends = processes.map(codeOf)
  const maker = await listener.hear(/^Collecting the characters/)
  const waiting = await listener.hear(/^Another process makes the tokenizer files; waiting/)
  expect(waiting.pid).not.toBe(maker.pid)
  process.kill(maker.pid, 'SIGKILL')
  writeFileSync(join(folder, 'gate'), '')
  expect((await Promise.all(ends)).sort()).toEqual([0, null])
  expect(listener.speakers(/^Collecting/)).toEqual([maker.pid, waiting.pid])
  expect(kept(folder)).toEqual({ tokenizers: 1, texts: 1 })
  const out = processes[0]!.pid === waiting.pid ? 'a' : 'b'
  expect(await hashIn(folder, out)).toBe(expected)
})

const hasMpi = spawnSync('mpirun', ['--version']).status === 0

describe.skipIf(!hasMpi)('ranks on a corpus that nobody has read yet (skipped without mpirun)', () => {
  function startedRanks(folder: string, listener: Listener): ChildProcess {
    const options = ['--allow-run-as-root', '--oversubscribe', '--bind-to', 'none', '-n', '2']
    const running = spawn('mpirun', [...options, process.execPath, ...childOf(folder, 'out')], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    running.stderr!.resume()
    listener.listenTo(running)
    return running
  }

  test('one makes it while the other waits, and they learn the same bits as one process', async () => {
    const folder = join(root, 'ranks')
    tinyJob(folder, changes)
    const listener = new Listener()
    const end = codeOf(startedRanks(folder, listener))
    const maker = await listener.hear(/^Collecting the characters/)
    const waiting = await listener.hear(/^Another process makes the tokenizer files; waiting/)
    expect(waiting.pid).not.toBe(maker.pid)
    writeFileSync(join(folder, 'gate'), '')
    expect(await end).toBe(0)
    expect(listener.speakers(/^Collecting/)).toHaveLength(1)
    expect(listener.speakers(/^Making tokens/)).toHaveLength(1)
    expect(kept(folder)).toEqual({ tokenizers: 1, texts: 1 })
    expect(await hashIn(folder, 'out')).toBe(expected)
  })

  test('a maker that is killed ends the run, and the next run makes it', async () => {
    const folder = join(root, 'killed-ranks')
    tinyJob(folder, changes)
    const listener = new Listener()
    const end = codeOf(startedRanks(folder, listener))
    const maker = await listener.hear(/^Collecting the characters/)
    await listener.hear(/^Another process makes the tokenizer files; waiting/)
    process.kill(maker.pid, 'SIGKILL')
    expect(await end).not.toBe(0)
    writeFileSync(join(folder, 'gate'), '')
    expect(await codeOf(startedRanks(folder, new Listener()))).toBe(0)
    expect(kept(folder)).toEqual({ tokenizers: 1, texts: 1 })
    expect(await hashIn(folder, 'out')).toBe(expected)
  })
})
