import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { replayFile } from '../../src/cli/commands/replay.ts'
import { engineEntry, engineSetup } from '../../src/cli/engine-options.ts'
import type { EngineGauges } from '../../src/serve/messages.ts'
import { startEngine } from '../../src/serve/process/client.ts'
import { sharedData } from '../shared.ts'
import { greedy, request } from './requests.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-replay-'))
afterAll(() => rmSync(folder, { recursive: true }))
const modelPath = sharedData('models', 'stories260K', 'hf')

/** Serves some requests in a process of its own, with a draft model, chunks and little cache. */
async function record(path: string): Promise<EngineGauges> {
  // A file that others may read is there already.
  writeFileSync(path, 'old', { mode: 0o644 })
  const scheduler = { runningMax: 3, stepTokensMax: 12, guessesMax: 3, goalTpotMs: 20 }
  const setup = {
    modelPath: modelPath!,
    device: 'cpu',
    threads: 1,
    cacheTokens: 256,
    decisionFile: path,
    draftPath: modelPath!,
    scheduler,
  }
  const engine = await startEngine({ setup, entry: engineEntry() })
  const prompt = Array.from({ length: 30 }, (_, i) => 300 + (i % 6))
  const ends = Array.from({ length: 6 }, (_, i) => {
    const sampling = i % 2 === 0 ? greedy : { ...greedy, temperature: 0.8, seed: i }
    const wish = request({ id: `r${i}`, prompt: [1, ...prompt.slice(i)], maxTokens: 20, sampling })
    return new Promise<void>((resolve) => {
      void engine.submit(wish, ({ finish, tokens }) => {
        if (i === 4 && tokens.length > 0) engine.cancel(wish.id)
        if (finish !== undefined) resolve()
      })
    })
  })
  await Promise.all(ends)
  const gauges = await engine.gauges()
  await engine.close(1000)
  return gauges
}

describe.skipIf(modelPath === undefined)('a decision log of a live engine', () => {
  const path = join(folder, 'live.ndjson')

  test('replays to identical plans, and only its owner may read it', async () => {
    const { guessedTokens, draftMs } = await record(path)
    expect(guessedTokens).toBeGreaterThan(0)
    expect(draftMs).toBeGreaterThan(0)
    expect(readFileSync(path, 'utf8')).toContain('"proposals":')
    const { iterations, difference } = await replayFile(path)
    expect(difference).toBeUndefined()
    expect(iterations).toBeGreaterThan(20)
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })

  test('that lost a line replays up to it and then shows both plans', async () => {
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n')
    const at = lines.findIndex((line) => line.includes('"type":"submit"') && line.includes('"id":"r5"'))
    const changed = join(folder, 'changed.ndjson')
    writeFileSync(changed, lines.filter((_, i) => i !== at).join('\n'))
    const { difference } = await replayFile(changed)
    expect(difference!.logged).toContain('r5@')
    expect(difference!.replayed).not.toContain('r5@')
  })

  test('whose last line a crash cut off replays without it; garbage elsewhere is refused', async () => {
    const text = readFileSync(path, 'utf8').trimEnd()
    const torn = join(folder, 'torn.ndjson')
    writeFileSync(torn, text.slice(0, -20))
    expect((await replayFile(torn)).difference).toBeUndefined()
    writeFileSync(torn, `${text.slice(0, -20)}\n{}\n`)
    await expect(replayFile(torn)).rejects.toThrow('is not a decision')
  })
})

const other = sharedData('models', 'babyllama-char-1M', 'hf')

test.skipIf(modelPath === undefined || other === undefined)(
  'a draft model with another vocabulary is refused, and with another tokenizer too',
  async () => {
    const setup = { modelPath: modelPath!, device: 'cpu', threads: 1, cacheTokens: 256, draftPath: other! }
    await expect(startEngine({ setup, entry: engineEntry() })).rejects.toThrow('361 tokens, the model 512')
    expect(() => engineSetup(modelPath!, { draft: other! })).toThrow('cuts texts into other tokens')
  },
)

test('what is no decision log is refused with a reason', async () => {
  const path = join(folder, 'other.txt')
  writeFileSync(path, 'hello\nthere\n')
  await expect(replayFile(path)).rejects.toThrow('line 1 is not a decision')
  writeFileSync(path, '')
  await expect(replayFile(path)).rejects.toThrow('line 1 is not a decision')
  writeFileSync(path, '{"type":"plan","nowMs":1,"decided":""}\n')
  await expect(replayFile(path)).rejects.toThrow("begins with its 'begin' line")
  await expect(replayFile(join(folder, 'none'))).rejects.toThrow('ENOENT')
})
