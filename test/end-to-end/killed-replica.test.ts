import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { sha256 } from '../../src/control/gateway/keys.ts'
import { sumOfEngineLogs } from '../gateway/engine-logs.ts'
import { events, post } from '../openai/harness.ts'
import { sharedData } from '../shared.ts'

const folder = sharedData('models', 'stories260K', 'hf')
const main = join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.ts')
const scratch = mkdtempSync(join(tmpdir(), 'ropeway-killed-'))
const children: ChildProcess[] = []

afterAll(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  rmSync(scratch, { recursive: true, force: true, maxRetries: 9 })
})

interface Started {
  child: ChildProcess
  url: string
  /** Resolves when it has said so on stderr. */
  said(pattern: RegExp): Promise<RegExpExecArray>
}

/** Starts `ropeway ARGS --port 0` from the source tree; resolves when it answers. */
async function ropeway(...args: string[]): Promise<Started> {
  const child = spawn(process.execPath, [...runnerOf(main), main, ...args, '--port', '0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  children.push(child)
  let text = ''
  const said = (pattern: RegExp) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(text)
        if (match !== null) resolve(match)
      }
      child.stderr!.on('data', look)
      child.once('exit', () => reject(new Error(`ropeway ${args[0]} ended: ${text}`)))
      look()
    })
  child.stderr!.on('data', (part) => (text += part))
  const [, url] = await said(/answers at (http:\S+)\/v1/)
  return { child, url: url!, said }
}

const serve = (usage: string) =>
  ropeway(
    'serve',
    folder!,
    '--name',
    'hf',
    '--threads',
    '1',
    '--cache-tokens',
    '4096',
    '--gateway-key',
    'inner',
    '--usage',
    usage,
  )

const asked = [
  { temperature: 0 },
  { temperature: 1, seed: 11 },
  { temperature: 0.8, seed: 12, n: 2 },
  { temperature: 0, logprobs: 1 },
].map((fields) => ({
  model: 'stories',
  prompt: 'Once upon a time',
  max_tokens: 400,
  ignore_eos: true,
  ...fields,
}))

interface Choice {
  index: number
  text: string
  logprobs: { tokens: string[] } | null
}

function texts(list: readonly unknown[]): string[] {
  const choices = list.flatMap((event) => (event as { choices?: Choice[] }).choices ?? [])
  const out: string[] = []
  for (const { index, text, logprobs } of choices) {
    out[index] = (out[index] ?? '') + text + (logprobs?.tokens.map((token) => `|${token}`).join('') ?? '')
  }
  return [...out, String(list.at(-1))]
}

describe.skipIf(folder === undefined)('ropeway gateway over ropeway serve', () => {
  test('streams whose replica is killed -9 end with the texts of undisturbed ones, and all of it is billed', async () => {
    const logs = ['first', 'second'].map((name) => join(scratch, `${name}.ndjson`))
    const [first, second] = await Promise.all([serve(logs[0]!), serve(logs[1]!)])
    const file = join(scratch, 'fleet.json')
    const replicas = [first, second].map(({ url }, index) => ({ id: `r${index}`, url, key: 'inner' }))
    const keys = [{ id: 'alice', sha256: sha256('secret') }]
    const write = (list: typeof replicas) =>
      writeFileSync(
        file,
        JSON.stringify({ keys, deployments: [{ name: 'stories', model: 'hf', replicas: list }] }),
      )
    write(replicas.slice(0, 1))
    const usage = join(scratch, 'usage')
    const gateway = await ropeway('gateway', file, '--usage', usage)
    const ask = (body: object) =>
      post(
        `${gateway.url}/v1/completions`,
        { ...body, stream: true },
        { headers: { authorization: 'Bearer secret' } },
      )
    const undisturbed = await Promise.all(asked.map(async (body) => texts(await events(await ask(body)))))

    write(replicas)
    await gateway.said(/was read again/)

    let killed = false
    const disturbed = await Promise.all(
      [...asked, ...asked].map(async (body) => {
        const response = await ask(body)
        let text = ''
        for await (const part of response.body!) {
          text += Buffer.from(part).toString('utf8')
          if (!killed && text.split('data: ').length > 12) killed = first.child.kill('SIGKILL')
        }
        return texts(await events(new Response(text)))
      }),
    )
    expect(killed).toBe(true)
    expect(disturbed).toEqual([...undisturbed, ...undisturbed])
    const metrics = await fetch(`${gateway.url}/metrics`, { headers: { authorization: 'Bearer secret' } })
    expect(await metrics.text()).toMatch(/retries_total\{deployment="stories",kind="failover"\} [1-9]/)

    gateway.child.kill('SIGKILL')
    const lines = readFileSync(join(usage, 'usage-00000001.ndjson'), 'utf8').trim().split('\n')
    const total = (field: string) => lines.reduce((sum, line) => sum + (JSON.parse(line)[field] as number), 0)
    expect([total('requests'), total('output')]).toEqual([12, 3 * 5 * 400])
    expect({ requests: 12, prompt: total('prompt'), output: total('output') }).toEqual(
      sumOfEngineLogs(logs.map((path) => readFileSync(path, 'utf8'))),
    )
  })
})
