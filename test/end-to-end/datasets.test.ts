import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { bytesOf, hash } from '../objects/bytes.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const program = join(root, 'src', 'cli', 'main.ts')
const main = [...runnerOf(program), program]
const home = mkdtempSync(join(tmpdir(), 'ropeway-datasets-'))
const env = { ...process.env, ROPEWAY_HOME: home }

function start(args: string[]): {
  child: ChildProcess
  said: () => string
  out: () => string
  ended: Promise<number>
} {
  const child = spawn(process.execPath, [...main, ...args], { cwd: root, env })
  let err = ''
  let out = ''
  child.stderr!.on('data', (piece: Buffer) => (err += piece))
  child.stdout!.on('data', (piece: Buffer) => (out += piece))
  const ended = new Promise<number>((resolve) => child.once('close', (code) => resolve(code ?? -1)))
  return { child, said: () => err, out: () => out, ended }
}

async function until<T>(look: () => T | undefined | false, what: string): Promise<T> {
  for (const end = performance.now() + 50_000; performance.now() < end; await delay(5)) {
    const found = look()
    if (found !== undefined && found !== false) return found
  }
  throw new Error(`waited in vain for ${what}`)
}

async function up(port: string) {
  const service = start(['up', '--port', port])
  const url = await until(
    () => /answers at .*?http:\/\/127\.0\.0\.1:(\d+).*Ctrl-C/s.exec(service.said())?.[1],
    'the service',
  )
  return { ...service, port: url }
}

async function ropeway(...args: string[]): Promise<string> {
  const command = start(args)
  const code = await command.ended
  if (code !== 0) throw new Error(`ropeway ${args.join(' ')} ended with ${code}: ${command.said()}`)
  return command.out()
}

let service: Awaited<ReturnType<typeof up>>
beforeAll(async () => {
  service = await up('0')
})
afterAll(async () => {
  service.child.kill('SIGKILL')
  await service.ended
  rmSync(home, { recursive: true, force: true, maxRetries: 9 })
})

/** Marks of parts that the service has kept. */
function marks(): string[] {
  const folder = join(home, 'service', 'objects', '.ropeway', 'uploads')
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.part'))
}

test('an upload goes on through kill -9 of the service, and what comes back is what was sent', async () => {
  const large = bytesOf(4, 60 * 1024 * 1024 + 17)
  const folder = join(home, 'data', 'texts')
  mkdirSync(join(folder, 'inner'), { recursive: true })
  writeFileSync(join(folder, 'large.bin'), large)
  writeFileSync(join(folder, 'inner', 'a.jsonl'), '{"prompt":"a","completion":"b"}\n'.repeat(3))
  const sending = start(['dataset', 'upload', 'texts', folder, '--json'])
  await until(() => marks().length >= 2, 'two parts')
  service.child.kill('SIGKILL')
  await service.ended
  service = await up(service.port)
  const code = await sending.ended
  expect(sending.said()).not.toMatch(/error/)
  expect(code).toBe(0)
  expect(JSON.parse(sending.out())).toMatchObject({ name: 'texts', version: { number: 1, files: 2 } })

  const target = join(home, 'back')
  await ropeway('dataset', 'download', 'tex', target)
  expect(hash(readFileSync(join(target, 'large.bin')))).toBe(hash(large))
  expect((await ropeway('dataset', 'preview', 'texts', '-n', '1')).trim()).toBe(
    '{"prompt":"a","completion":"b"}',
  )
  // Again: nothing is sent, nothing is made.
  const again = JSON.parse(await ropeway('dataset', 'upload', 'texts', folder, '--json'))
  expect(again.version.number).toBe(1)
})

test('a checkpoint goes from files to a model and back to files by the command line', async () => {
  const folder = join(home, 'data', 'weights')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'model.safetensors'), 'weights')
  await ropeway('checkpoint', 'upload', 'base', folder, '--step', '7', '--layout', 'tensor=2')
  const model = JSON.parse(await ropeway('model', 'promote', 'base', 'chat', '--as', 'prod', '--json'))
  expect(model).toMatchObject({
    aliases: { prod: 1 },
    checkpoint: { name: 'base', step: 7, layout: { tensor: 2 } },
  })
  expect(await ropeway('model', 'lineage', 'chat')).toMatch(/checkpoint base +model chat@1/)
  const target = join(home, 'model')
  await ropeway('checkpoint', 'download', 'base', target)
  expect(readFileSync(join(target, 'model.safetensors'), 'utf8')).toBe('weights')
  const refused = start(['checkpoint', 'delete', 'base', '-y'])
  expect(await refused.ended).toBe(6)
  await ropeway('model', 'delete', 'chat', '-y')
  expect((await ropeway('model', 'list', '-q')).trim()).toBe('')
  expect(await ropeway('retention', 'set', 'few', '--keep-last', '3', '--keep-best', '+accuracy')).toBe('')
  expect(await ropeway('retention')).toMatch(/few +\* +3 +- +- +accuracy/)
})
