import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { EncoderThread } from '../../src/cli/encoder.ts'
import { loadTokenizer, type Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { harness, info, model, post } from '../openai/harness.ts'
import { sharedData } from '../shared.ts'

const packed = sharedData('tokenizers', 'qwen3', 'tokenizer.json.gz')

describe.skipIf(packed === undefined)('a long prompt', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-encoder-'))
  let encoder: EncoderThread
  let tokenizer: Tokenizer
  beforeAll(() => {
    writeFileSync(join(folder, 'tokenizer.json'), gunzipSync(readFileSync(packed!)))
    encoder = new EncoderThread(folder)
    tokenizer = loadTokenizer(folder)
  })
  afterAll(async () => {
    await encoder.close()
    rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
  })

  const serve = async (contextMax: number) =>
    await harness({
      tokenizer,
      encodeLong: (text, options) => encoder.encode(text, options),
      limits: { encodingsMax: 1 },
    }).then((server) => {
      server.engine.info = { ...info, contextMax, vocabularySize: 200_000, cacheTokens: contextMax }
      return server
    })

  test('is encoded on another thread: the same tokens, and this one has its turns meanwhile', async () => {
    // A single word is the worst case: it cannot be cut into slices.
    const prompt = 'a'.repeat(100_000)
    const expected = tokenizer.encode(prompt)
    await using server = await serve(expected.length + 100)
    let turns = 0
    const count = () => {
      turns++
      counting = setImmediate(count)
    }
    let counting = setImmediate(count)
    const answer = await post(`${server.url}/v1/completions`, { model, prompt, max_tokens: 1 })
    clearImmediate(counting)
    expect(answer.status).toBe(200)
    expect(server.engine.submitted[0]!.prompt).toEqual(expected)
    expect(turns).toBeGreaterThan(20)
  })

  test('that does not fit is refused, and so is one more than may be on their way', async () => {
    await using server = await serve(1000)
    const body = { model, prompt: 'word '.repeat(5000), max_tokens: 1 }
    const both = [post(`${server.url}/v1/completions`, body), post(`${server.url}/v1/completions`, body)]
    const statuses = (await Promise.all(both)).map(({ status }) => status)
    expect(statuses.sort()).toEqual([400, 429])
    expect(server.engine.submitted).toEqual([])
  })

  test('that the thread dies over is an error, and the next one finds a new thread', async () => {
    // Long enough that it cannot be done before the thread is told to end.
    const lost = encoder.encode('many words '.repeat(200_000), {})
    await encoder.close()
    await expect(lost).rejects.toThrow(/thread that encodes prompts ended/)
    expect([...(await encoder.encode('hello', {}))]).toEqual(tokenizer.encode('hello'))
  })
})
