import { spawn } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { openStore } from '../../src/control/store/store.ts'
import { onEveryDatabase } from './databases.ts'
import { type NoteTables, noteMigration } from './kill-notes.ts'

const here = dirname(fileURLToPath(import.meta.url))

/** What the child said before it ended or was killed. */
function write(url: string, at: number, fault: string): Promise<{ said: string[]; signal: string | null }> {
  const program = join(here, 'kill-child.ts')
  const child = spawn(process.execPath, [...runnerOf(program), program, url, `${at}`, fault], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.on('data', (piece: Buffer) => (text += piece))
  return new Promise((resolve) =>
    child.on('close', (_, signal) => resolve({ said: text.split('\n').filter(Boolean), signal })),
  )
}

onEveryDatabase((databases) => {
  test('what was acknowledged survives SIGKILL at any call, and no transaction is there in half', async () => {
    const url = await databases.fresh()
    const acknowledged: string[] = []
    // Calls of a transaction: begin, two inserts, commit.
    const points = [
      [3, 'killed_after'],
      [4, 'killed'],
      [4, 'killed_after'],
      [8, 'killed_after'],
    ]
    for (const [at, fault] of points) {
      const { said, signal } = await write(url, at as number, fault as string)
      expect(signal).toBe('SIGKILL')
      acknowledged.push(...said)
    }
    const { said, signal } = await write(url, 1000, 'killed')
    expect(signal).toBeNull()
    expect(said.at(-1)).toBe('all')
    acknowledged.push(...said.slice(0, -1))
    await using store = await openStore(url, { migrations: [noteMigration] })
    const ids = (await store.db<NoteTables>().selectFrom('notes').select('id').execute()).map(({ id }) => id)
    for (const id of acknowledged) expect(ids).toContain(id)
    for (const id of ids) expect(ids).toContain(id.endsWith('+') ? id.slice(0, -1) : `${id}+`)
    expect(acknowledged.length).toBeGreaterThanOrEqual(4)
  })

  test('two processes that start on the same empty database both get their rows in', async () => {
    const url = await databases.fresh()
    const ended = await Promise.all([1000, 1001].map((at) => write(url, at, 'killed')))
    for (const { said } of ended) expect(said.length).toBe(4)
    await using store = await openStore(url, { migrations: [noteMigration] })
    const notes = await store.db<NoteTables>().selectFrom('notes').select('id').execute()
    expect(notes.length).toBe(12)
  })
})
