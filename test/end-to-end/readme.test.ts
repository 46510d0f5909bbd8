import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const home = mkdtempSync(join(tmpdir(), 'ropeway-readme-'))
const background: ChildProcess[] = []

/** A fresh home, and a starter of a few steps: the text is worse, the path is the same. */
const environment = { ...process.env, ROPEWAY_HOME: home, ROPEWAY_STARTER_STEPS: '6', ROPEWAY_THREADS: '1' }

afterAll(async () => {
  await Promise.all(background.map(stop))
  rmSync(home, { recursive: true, force: true, maxRetries: 9 })
  rmSync(join(root, 'examples', 'whale', 'out'), { recursive: true, force: true, maxRetries: 9 })
})

interface Block {
  code: string
  /** The text that a block in the background prints when others may go on. */
  ready: string | undefined
}

/** The blocks that the README marks as sh; those marked text need files that only the reader has. */
function blocks(): Block[] {
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  return [...readme.matchAll(/^```sh(?: background=(\S+))?\n([\s\S]*?)^```/gm)].map(([, ready, code]) => ({
    code: code!.trim(),
    ready,
  }))
}

function startInBackground({ code, ready }: Block): Promise<string> {
  // A process group of its own, so that all of it can be ended.
  const child = spawn('bash', ['-c', code], { cwd: root, env: environment, detached: true })
  background.push(child)
  return new Promise((resolve, reject) => {
    let text = ''
    const hear = (chunk: Buffer) => {
      text += chunk
      if (text.includes(ready!)) resolve(text)
    }
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
    child.on('exit', (status) => reject(new Error(`${code} ended with ${status}:\n${text}`)))
  })
}

function run(code: string): Promise<{ failure: Error | null; output: string }> {
  return new Promise((resolve) => {
    const options = { cwd: root, env: environment }
    execFile('bash', ['-e', '-c', code], options, (failure, stdout, stderr) => {
      resolve({ failure, output: failure === null ? stdout : stdout + stderr })
    })
  })
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return
  const ended = new Promise((resolve) => child.on('exit', resolve))
  process.kill(-child.pid!, 'SIGINT')
  await ended
}

test('every command of the README runs on a fresh home, in order', { timeout: 360_000 }, async () => {
  const all = blocks()
  expect(all.length).toBeGreaterThanOrEqual(5)
  for (const block of all) {
    if (block.ready !== undefined) {
      await startInBackground(block)
      continue
    }
    const { failure, output } = await run(block.code)
    expect(failure, `${block.code}\n${output}`).toBeNull()
    expect(output, block.code).not.toMatch(/"error"/)
  }
  const completion = all.find(({ code }) => code.startsWith('curl'))!
  const { output } = await run(completion.code.replace('curl', 'curl -s'))
  const answer = JSON.parse(output) as { usage: { completion_tokens: number } }
  expect(answer.usage.completion_tokens).toBeGreaterThan(0)
})
