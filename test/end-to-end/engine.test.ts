import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { engineEntry } from '../../src/cli/engine-options.ts'
import {
  type EngineProcessClient,
  type EngineProcessOptions,
  startEngine,
} from '../../src/serve/process/client.ts'
import type { EngineSetup } from '../../src/serve/process/protocol.ts'
import type { EngineRequest, Finish } from '../../src/serve/request.ts'
import type { TraceLine } from '../../src/serve/trace.ts'
import { sharedData } from '../shared.ts'

const folder = sharedData('models', 'stories260K', 'hf')
const engines: EngineProcessClient[] = []
const scratch = mkdtempSync(join(tmpdir(), 'ropeway-engine-'))

afterAll(async () => {
  await Promise.all(engines.map((engine) => engine.close()))
  rmSync(scratch, { recursive: true, force: true, maxRetries: 9 })
})

async function start(
  setup: Partial<EngineSetup> = {},
  onCrash?: (message: string) => void,
  more: Partial<EngineProcessOptions> = {},
) {
  const engine = await startEngine({
    setup: { modelPath: folder!, device: 'cpu', threads: 1, cacheTokens: 2048, ...setup },
    entry: engineEntry(),
    ...(onCrash !== undefined && { onCrash }),
    ...more,
  })
  engines.push(engine)
  return engine
}

function request(
  id: string,
  prompt: readonly number[],
  maxTokens: number,
  more: Partial<EngineRequest> = {},
): EngineRequest {
  return {
    id,
    prompt,
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      seed: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repetitionPenalty: 1,
    },
    maxTokens,
    minTokens: 0,
    ignoreEos: true,
    stopTokens: [2],
    tenant: 'test',
    priority: 0,
    ...more,
  }
}

/** Runs one request to its end; `onTokens` hears how many tokens there are so far. */
function run(engine: EngineProcessClient, asked: EngineRequest, onTokens?: (count: number) => void) {
  return new Promise<{ tokens: number[]; finish: Finish }>((resolve, reject) => {
    const tokens: number[] = []
    engine
      .submit(asked, (progress) => {
        tokens.push(...progress.tokens)
        onTokens?.(tokens.length)
        if (progress.finish !== undefined) resolve({ tokens, finish: progress.finish })
      })
      .then((admission) => {
        if (!admission.ok) reject(new Error(admission.code))
      }, reject)
  })
}

const prompts = Array.from({ length: 6 }, (_, i) => [1, 403, 407 + i, 261, 378, 300 + 7 * i])

describe.skipIf(folder === undefined)('the engine in its process', () => {
  test('requests leave the iteration in which they finish, join the next one, and long prompts go in chunks beside decodes', async () => {
    const traceFile = join(scratch, 'trace.ndjson')
    const engine = await start({ traceFile, scheduler: { stepTokensMax: 32, runningMax: 8 } })
    const long = run(engine, request('long', prompts[0]!, 60), (count) => {
      if (count === 10)
        late = run(
          engine,
          request(
            'late',
            Array.from({ length: 100 }, (_, i) => 3 + i),
            5,
          ),
        )
    })
    let late: Promise<unknown> | undefined
    const short = run(engine, request('short', prompts[1]!, 5))
    await Promise.all([long, short])
    await late
    await engine.close(1000)
    const lines = readFileSync(traceFile, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as TraceLine)
    const iterationsOf = (id: string) =>
      lines.filter(({ sequences }) => sequences.some((entry) => entry.id === id))
    const last = (id: string) => iterationsOf(id).at(-1)!.iteration
    const joined = lines.find(({ joined }) => joined.includes('late'))!.iteration
    expect(lines.find(({ finished }) => finished.includes('short'))!.iteration).toBe(last('short'))
    expect(last('short')).toBeLessThan(last('long'))
    expect(joined).toBeGreaterThan(last('short'))
    expect(joined).toBeLessThan(last('long'))
    // 100 prompt tokens under a budget of 32 take four iterations, and the running request is in each of them.
    const chunks = iterationsOf('late').slice(0, 4)
    expect(chunks.map(({ sequences }) => sequences.find(({ id }) => id === 'late')!.count)).toEqual([
      31, 31, 31, 7,
    ])
    for (const { sequences } of chunks) expect(sequences.some(({ id }) => id === 'long')).toBe(true)
    expect(
      iterationsOf('long').every(
        ({ sequences }) => sequences.reduce((sum, { count }) => sum + count, 0) <= 32,
      ),
    ).toBe(true)
  })

  test('a batch gives the same tokens as one request alone, greedy and seeded', async () => {
    const engine = await start()
    const asked = prompts.flatMap((prompt, i) => [
      request(`greedy-${i}`, prompt, 40),
      request(`seeded-${i}`, prompt, 40, {
        sampling: { ...request('', prompt, 1).sampling, temperature: 1, topP: 0.9, seed: 100 + i },
      }),
    ])
    const together = await Promise.all(asked.map((one) => run(engine, one)))
    for (const [i, one] of asked.entries()) {
      const alone = await run(engine, { ...one, id: `${one.id}-alone`, cacheSalt: one.id })
      expect(together[i]!.tokens).toEqual(alone.tokens)
    }
  })

  test('cancelling frees the cache within one iteration', async () => {
    const engine = await start({ scheduler: { prefixCache: false } })
    const ended = run(engine, request('gone', prompts[0]!, 400), (count) => {
      if (count === 5) engine.cancel('gone')
    })
    const { finish, tokens } = await ended
    expect(finish.reason).toBe('aborted')
    expect(tokens.length).toBeLessThan(50)
    const { blocksHeld, running } = await engine.gauges()
    expect({ blocksHeld, running }).toEqual({ blocksHeld: 0, running: 0 })
  })

  test('a killed engine process starts again and requests in flight go on as if nothing had happened', async () => {
    const crashes: string[] = []
    let heard = () => {}
    const crashed = new Promise<void>((resolve) => {
      heard = resolve
    })
    const engine = await start({}, (message) => {
      crashes.push(message)
      heard()
    })
    const asked = prompts.map((prompt, i) =>
      request(`r${i}`, prompt, 400, {
        sampling: { ...request('', prompt, 1).sampling, temperature: 0.9, seed: i },
      }),
    )
    const undisturbed = await Promise.all(asked.map((one) => run(engine, one)))
    let killed = false
    const disturbed = await Promise.all(
      asked.map((one) =>
        run(engine, { ...one, id: `again-${one.id}` }, (count) => {
          if (count === 30 && !killed) {
            killed = true
            process.kill(engine.pid!, 'SIGABRT')
          }
        }),
      ),
    )
    await crashed
    expect(crashes).toHaveLength(1)
    expect(crashes[0]).toMatch(/starts again with [1-6] requests in flight/)
    expect(disturbed.map(({ tokens }) => tokens)).toEqual(undisturbed.map(({ tokens }) => tokens))
    for (const { finish } of disturbed) expect(finish.reason).toBe('length')
  })

  test('a request that comes while a crashed engine loads again waits for it instead of being refused', async () => {
    let heard = () => {}
    const crashed = new Promise<void>((resolve) => {
      heard = resolve
    })
    const engine = await start({}, () => heard())
    process.kill(engine.pid!, 'SIGKILL')
    await crashed
    expect(engine.accepting).toBe(true)
    const { finish, tokens } = await run(engine, request('late', prompts[0]!, 5))
    expect([finish.reason, tokens.length]).toEqual(['length', 5])
  })

  test('loading is given up when it is asked to stop', async () => {
    const stop = new AbortController()
    const options = { signal: stop.signal, onLoading: () => stop.abort() }
    await expect(start({}, undefined, options)).rejects.toThrow(/Stopped while the model was loading/)
  })

  test('a model that cannot be loaded is one clear sentence', async () => {
    await expect(start({ modelPath: join(scratch, 'nothing.gguf') })).rejects.toThrow(/There is no model at/)
  })

  test('an engine that is asked by a parent that dies meanwhile ends without a word', async () => {
    const entry = engineEntry().pathname
    const setup: EngineSetup = { modelPath: folder!, device: 'cpu', threads: 1, cacheTokens: 2048 }
    const options = { execArgv: runnerOf(entry), serialization: 'advanced', stdio: [0, 1, 2, 'ipc'] }
    // The child stands still from before it is asked until the parent is gone: then it answers nobody.
    const parent = spawn(process.execPath, [
      '--eval',
      `const [entry, options, setup] = JSON.parse(process.argv[1])
      const child = require('node:child_process').fork(entry, [], options)
      child.send({ type: 'setup', setup })
      child.on('message', ({ type }) => {
        if (type !== 'ready') return
        child.kill('SIGSTOP')
        process.stdout.write(String(child.pid))
        child.send({ type: 'gauges', reply: 0 }, () => process.exit())
      })`,
      JSON.stringify([entry, options, setup]),
    ])
    const said = { out: '', err: '' }
    for (const stream of ['out', 'err'] as const)
      parent[`std${stream}`].setEncoding('utf8').on('data', (text: string) => {
        said[stream] += text
      })
    await once(parent, 'exit')
    await expect.poll(() => said.out).toMatch(/^\d+$/)
    process.kill(Number(said.out), 'SIGCONT')
    // Parent and child write to the same pipes, which close when both have ended.
    await once(parent, 'close')
    expect(said.err).toBe('')
  })
})
