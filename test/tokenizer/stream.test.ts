import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { StopMatcher, TextStream } from '../../src/tokenizer/stream.ts'
import { tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { trainByteLevelBpe } from '../../src/tokenizer/train.ts'
import { byteFallbackJson } from './small-tokenizers.ts'

const byteLevel = tokenizerFromJson(
  trainByteLevelBpe(['the cat sat on the mat 안녕하세요 the 안녕'], {
    vocabularySize: 300,
    specialTokens: ['<|end|>'],
  }),
)
const fallback = tokenizerFromJson(byteFallbackJson())
const tokenizers = { 'byte-level': byteLevel, 'byte-fallback': fallback }

describe.each(Object.entries(tokenizers))('a stream over a %s tokenizer', (_, tokenizer) => {
  test('never shows a part of a Hangul syllable or an emoji', () => {
    for (const text of ['안녕하세요', '😀 👨‍👩‍👧 x', 'é가a나']) {
      const stream = new TextStream(tokenizer)
      for (const token of tokenizer.encode(text, { addSpecial: false })) {
        const piece = stream.push(token)
        expect(piece).not.toContain('\ufffd')
        expect(piece).not.toMatch(/\p{Surrogate}/u)
      }
      expect(stream.flush()).toBe('')
    }
  })

  test('says in all what decoding the whole says, for any tokens', () => {
    const random = new Random(11)
    for (let round = 0; round < 400; round++) {
      const tokens = Array.from({ length: random.integer(30) }, () =>
        random.integer(tokenizer.vocabularySize + 2),
      )
      for (const skipSpecial of [true, false]) {
        const stream = new TextStream(tokenizer, { skipSpecial })
        const text = tokens.map((token) => stream.push(token)).join('') + stream.flush()
        expect(text).toBe(tokenizer.decode(tokens, { skipSpecial }))
      }
    }
  })
})

test('a stream keeps a byte order mark', () => {
  const stream = new TextStream(byteLevel)
  const pieces = byteLevel.encode('\ufeffa').map((token) => stream.push(token))
  expect(pieces.join('')).toBe('\ufeffa')
})

test('special tokens give no text unless asked for', () => {
  const tokens = byteLevel.encode('the<|end|>')
  const silent = new TextStream(byteLevel)
  const open = new TextStream(byteLevel, { skipSpecial: false })
  expect(tokens.map((token) => silent.push(token)).join('')).toBe('the')
  expect(tokens.map((token) => open.push(token)).join('')).toBe('the<|end|>')
})

test('only the beginning of a text loses the space that SentencePiece puts before it', () => {
  const word = fallback.idOf('▁the')!
  const stream = new TextStream(fallback)
  expect(stream.push(word) + stream.push(word)).toBe('the the')
})

/** The text up to the first stop string by definition, looking at every prefix in turn. */
function naiveStop(text: string, stops: string[]): { text: string; stopped?: string } {
  for (let end = 1; end <= text.length; end++) {
    const ended = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0]
    if (ended !== undefined) return { text: text.slice(0, end - ended.length), stopped: ended }
  }
  return { text }
}

test('stop strings end the text where a naive search would, however the text is cut', () => {
  const random = new Random(5)
  const word = (length: number) => Array.from({ length }, () => 'ab\n'[random.integer(3)]).join('')
  for (let round = 0; round < 3000; round++) {
    const stops = Array.from({ length: 1 + random.integer(3) }, () => word(1 + random.integer(4)))
    const text = word(random.integer(25))
    const matcher = new StopMatcher(stops)
    let shown = ''
    let stopped: string | undefined
    for (let at = 0; at < text.length && stopped === undefined; ) {
      const length = 1 + random.integer(4)
      const result = matcher.push(text.slice(at, at + length))
      shown += result.text
      stopped = result.stopped
      at += length
    }
    if (stopped === undefined) shown += matcher.flush()
    expect(
      { text: shown, ...(stopped === undefined ? {} : { stopped }) },
      JSON.stringify([stops, text]),
    ).toEqual(naiveStop(text, stops))
  }
})

test('exactly the text that could begin a stop string is held back', () => {
  const matcher = new StopMatcher(['\n\nUser:', 'END'])
  expect(matcher.push('Hi\n')).toEqual({ text: 'Hi' })
  expect(matcher.push('\nUs')).toEqual({ text: '' })
  expect(matcher.push('a E')).toEqual({ text: '\n\nUsa ' })
  expect(matcher.flush()).toBe('E')
})

test('without stop strings everything passes at once', () => {
  expect(new StopMatcher([]).push('abc')).toEqual({ text: 'abc' })
})
