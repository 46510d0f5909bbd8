import { describe, expect, test } from 'vitest'
import { Transcript } from '../../src/openai/transcript.ts'
import type { TokenLogprob } from '../../src/serve/request.ts'
import { bytes, byteTokenizer, special } from './byte-tokenizer.ts'

const tokenizer = byteTokenizer()

function logprobs(tokens: readonly number[]): TokenLogprob[] {
  return tokens.map((token) => ({ token, logprob: -1, top: [] }))
}

/** Pushes token by token; joins what was released. */
function run(transcript: Transcript, tokens: readonly number[]) {
  let text = ''
  const shown: number[] = []
  const offsets: number[] = []
  const take = (released: ReturnType<Transcript['push']>) => {
    text += released.text
    shown.push(...released.tokens.map(({ logprob }) => logprob.token))
    offsets.push(...released.tokens.map(({ offset }) => offset))
    expect(released.text).not.toContain('\ufffd')
  }
  for (const token of tokens) if (!transcript.stopped) take(transcript.push([token], logprobs([token])))
  take(transcript.flush())
  return { text, shown, offsets }
}

describe('a transcript', () => {
  test('releases whole characters only, and every token with them', () => {
    const text = '한글 👩‍👩‍👧!'
    const { text: released, shown } = run(new Transcript(tokenizer, []), bytes(text))
    expect(released).toBe(text)
    expect(shown).toEqual(bytes(text))
  })

  test('counts offsets in code points', () => {
    const { offsets } = run(new Transcript(tokenizer, []), bytes('a👧b'))
    expect(offsets).toEqual([0, 1, 1, 1, 1, 2])
  })

  test('never shows a stop string that straddles tokens, nor the tokens that spelt it', () => {
    const transcript = new Transcript(tokenizer, ['END'])
    const { text, shown } = run(transcript, bytes('one ENE two END three'))
    expect(text).toBe('one ENE two ')
    expect(shown).toEqual(bytes('one ENE two '))
    expect(transcript.stopped).toBe(true)
    expect(transcript.tokenCount).toBe('one ENE two END'.length)
  })

  test('drops the tokens that came in one iteration behind a stop string', () => {
    const transcript = new Transcript(tokenizer, ['!'])
    const released = transcript.push(bytes('ab!cd'), logprobs(bytes('ab!cd')))
    expect(released.text).toBe('ab')
    expect(released.tokens.map(({ logprob }) => logprob.token)).toEqual(bytes('ab'))
    expect(transcript.tokenCount).toBe(3)
  })

  test('gives back what looked like a stop string when the text ends before it was one', () => {
    const { text, shown } = run(new Transcript(tokenizer, ['END']), bytes('the EN'))
    expect(text).toBe('the EN')
    expect(shown).toEqual(bytes('the EN'))
  })

  test('looks for stop strings only behind the least number of tokens', () => {
    const { text } = run(new Transcript(tokenizer, ['a'], 3), bytes('banana'))
    expect(text).toBe('ban')
  })

  test('reports special tokens, which have no text', () => {
    const { text, shown } = run(new Transcript(tokenizer, []), [...bytes('a'), special.user])
    expect(text).toBe('a')
    expect(shown).toEqual([...bytes('a'), special.user])
  })

  test('completes a character that the prompt began', () => {
    const transcript = new Transcript(tokenizer, [])
    const [first, ...rest] = bytes('글')
    transcript.continueBehind([...bytes('한'), first!])
    expect(run(transcript, rest).text).toBe('글')
  })
})
