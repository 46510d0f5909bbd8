import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const program = join(root, 'src', 'cli', 'main.ts')
const main = [...runnerOf(program), program]
const home = mkdtempSync(join(tmpdir(), 'ropeway-up-'))
const env = { ...process.env, ROPEWAY_HOME: home }

interface Up {
  child: ChildProcess
  url: string
  said: () => string
  printed: () => string
}

async function up(...options: string[]): Promise<Up> {
  const child = spawn(process.execPath, [...main, 'up', '--port', '0', ...options], { cwd: root, env })
  let errors = ''
  let output = ''
  child.stdout!.on('data', (piece: Buffer) => (output += piece))
  const url = await new Promise<string>((resolve, reject) => {
    child.stderr!.on('data', (piece: Buffer) => {
      errors += piece
      const match = /answers at .*?(http:\/\/127\.0\.0\.1:\d+).*Ctrl-C/s.exec(errors)
      if (match !== null) resolve(match[1]!)
    })
    child.on('exit', (code) => reject(new Error(`up ended with ${code}: ${errors}`)))
  })
  return { child, url, said: () => errors, printed: () => output }
}

function ropeway(args: string[], input = ''): { status: number; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...main, ...args], {
    ...{ cwd: root, env, input, encoding: 'utf8' },
  })
  return { status: status!, out: stdout, err: stderr }
}

async function end(service: Up, signal: NodeJS.Signals): Promise<number | null> {
  const ended = new Promise<number | null>((resolve) => service.child.once('exit', resolve))
  service.child.kill(signal)
  return await ended
}

let service: Up
beforeAll(async () => {
  service = await up()
})
afterAll(async () => {
  if (service.child.exitCode === null) await end(service, 'SIGKILL')
  rmSync(home, { recursive: true, force: true, maxRetries: 9 })
})

test('one command makes a service with an owner, whom the command line of this machine is at once', async () => {
  // What it prints comes by another pipe than what it says.
  await expect.poll(() => service.printed().trim()).toMatch(/^rwk_/)
  const key = service.printed().trim()
  expect(statSync(join(home, 'contexts.json')).mode & 0o777).toBe(0o600)
  const me = JSON.parse(ropeway(['whoami', '--json']).out)
  expect(me.projects).toMatchObject([{ name: 'default', role: 'admin' }])
  expect(readFileSync(join(home, 'service', 'ropeway.db')).includes(key)).toBe(false)
  expect(existsSync(join(home, 'service', 'secrets.key'))).toBe(true)
})

test('what was made is there after kill -9, and a second server on the same folder is refused', async () => {
  expect(ropeway(['project', 'create', 'two', '-q']).out).toMatch(/^project_/)
  const stored = ropeway(
    ['credential', 'create', 'hub', '--kind', 'huggingface', '--secret', 'token'],
    'hf_secret\n',
  )
  expect(stored.status).toBe(0)
  const second = ropeway(['up', '--port', '0'])
  expect(second.status).toBe(6)
  expect(second.err).toMatch(/Another process of Ropeway uses/)
  await end(service, 'SIGKILL')
  expect(ropeway(['project']).status).toBe(5)
  service = await up()
  expect(service.printed()).toBe('')
  expect(
    ropeway(['project', 'list', '--json'])
      .out.trim()
      .split('\n')
      .map((text) => JSON.parse(text).name),
  ).toEqual(['default', 'two'])
  expect(ropeway(['credential']).out).toMatch(/hub +huggingface +token/)
})

test('commands end with the exit codes of the conventions and say what to do', () => {
  expect(ropeway(['credential', 'delete', 'nobody', '-y'])).toMatchObject({ status: 3 })
  expect(ropeway(['project', 'create', 'two'])).toMatchObject({ status: 6 })
  expect(ropeway(['credential', 'delete', 'hub'])).toMatchObject({
    status: 2,
    err: expect.stringMatching(/-y/),
  })
})

test('the shell completes names that the service knows', () => {
  expect(ropeway(['complete', '--', 'project', 'use', '']).out).toBe('default\ntwo\n')
})

test('a service on a second folder has a context of its own, and takes nothing from the first', async () => {
  const contexts = () => JSON.parse(readFileSync(join(home, 'contexts.json'), 'utf8'))
  const before = contexts()
  const folder = join(home, 'two')
  let second = await up('--data', folder)
  await expect.poll(() => second.printed().trim()).toMatch(/^rwk_/)
  const token = second.printed().trim()
  expect(second.said()).toMatch(/in its context "two"/)
  expect(second.said()).toMatch(/goes on with its context "local".*context use two/)
  expect(contexts()).toMatchObject({ current: 'local', contexts: { two: { url: second.url, token } } })
  expect(contexts().contexts.local).toEqual(before.contexts.local)
  // Its folder tells it at the next start, whichever is the current one, and at whatever port.
  await end(second, 'SIGTERM')
  second = await up('--data', folder)
  expect(contexts()).toMatchObject({ current: 'local', contexts: { two: { url: second.url, token } } })
  expect(JSON.parse(ropeway(['whoami', '--json', '--context', 'two']).out).projects).toHaveLength(1)
  expect(JSON.parse(ropeway(['whoami', '--json']).out).projects).toHaveLength(2)
  await end(second, 'SIGTERM')
})

test('SIGTERM ends it in order', async () => {
  expect(await end(service, 'SIGTERM')).toBe(0)
})
