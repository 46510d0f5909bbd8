import { type ChildProcess, spawn } from 'node:child_process'
import { Agent, request } from 'node:http'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { events, post } from '../openai/harness.ts'
import { sharedData } from '../shared.ts'

const stories = sharedData('models', 'stories260K', 'hf')
const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const main = join(repository, 'src', 'cli', 'main.ts')
let command: Command | undefined

afterEach(() => {
  if (command?.child.exitCode === null) command.child.kill('SIGKILL')
})

interface Command {
  child: ChildProcess
  /** Resolves to the first match in what the command has written to stderr. */
  said(pattern: RegExp): Promise<string>
  exited: Promise<number | null>
}

/** `ropeway serve` as a person starts it. */
function serve(drainLimitSeconds: number): Command {
  const args = [...runnerOf(main), main, 'serve', stories!, '--port', '0', '--name', 'real']
  const small = ['--device', 'cpu', '--threads', '1', '--cache-tokens', '4096', '--running', '2']
  const limit = ['--drain-limit', String(drainLimitSeconds)]
  const child = spawn(process.execPath, [...args, ...small, ...limit], {
    cwd: repository,
    stdio: ['ignore', 'inherit', 'pipe'],
    env: { ...process.env, NO_COLOR: '1' },
  })
  let text = ''
  child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  const exited = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)))
  const said = (pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(text)
        if (match !== null) resolve(match[1] ?? match[0])
      }
      child.stderr!.on('data', look)
      child.once('close', () => reject(new Error(`it ended without saying ${pattern}: ${text}`)))
      look()
    })
  return { child, said, exited }
}

/** Many answers on few places in the batch: some seconds of work. */
const long = {
  model: 'real',
  prompt: 'Once upon a time',
  max_tokens: 480,
  ignore_eos: true,
  n: 12,
  stream: true,
}

function statusOnAgent(agent: Agent, url: string): Promise<{ status: number; reused: boolean }> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' }
    const asked = request(`${url}/v1/completions`, { method: 'POST', agent, headers }, (response) => {
      response.resume().once('end', () => {
        resolve({ status: response.statusCode!, reused: asked.reusedSocket })
      })
    })
    asked.once('error', reject)
    asked.end(JSON.stringify({ ...long, n: 1, max_tokens: 1, stream: false }))
  })
}

describe.skipIf(stories === undefined)('SIGTERM on ropeway serve', () => {
  test('lets a stream finish, answers 503 to what is new on old and new connections, then exits with 0', async () => {
    command = serve(60)
    const url = await command.said(/answers at (http:\S+)\/v1/)
    const agent = new Agent({ keepAlive: true })
    expect(await statusOnAgent(agent, url)).toEqual({ status: 200, reused: false })
    const stream = await post(`${url}/v1/completions`, long)
    command.child.kill('SIGTERM')
    await command.said(/Stopping/)
    expect(await statusOnAgent(agent, url)).toEqual({ status: 503, reused: true })
    const late = await post(`${url}/v1/completions`, { ...long, stream: false })
    expect(late.status).toBe(503)
    expect(late.headers.get('retry-after')).toBe('1')
    expect(await late.json()).toMatchObject({ error: { code: 'shutting_down', type: 'server_error' } })
    expect((await fetch(`${url}/health`)).status).toBe(503)
    const chunks = await events(stream)
    expect(chunks.at(-1)).toBe('[DONE]')
    expect(chunks.filter((chunk) => JSON.stringify(chunk).includes('"finish_reason":"length"'))).toHaveLength(
      long.n,
    )
    expect(await command.exited).toBe(0)
  })

  test('ends at the drain limit what has not finished with an error, and exits', async () => {
    command = serve(0)
    const url = await command.said(/answers at (http:\S+)\/v1/)
    const stream = await post(`${url}/v1/completions`, long)
    command.child.kill('SIGTERM')
    expect((await events(stream)).at(-1)).toMatchObject({ error: { code: 'aborted' } })
    expect(await command.exited).toBe(0)
    await expect(fetch(`${url}/health`)).rejects.toThrow()
  })
})
