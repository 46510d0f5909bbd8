import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { FewestTokens, PromptEncoder } from '../../src/openai/prompts.ts'
import { goldenNames, goldens, goldenTokenizer } from '../tokenizer/goldens.ts'
import { byteTokenizer } from './byte-tokenizer.ts'
import { info } from './harness.ts'

test('a text is certainly too long by the characters it has, not by the longest token of all', async () => {
  const tokenizer = byteTokenizer()
  tokenizer.encode = () => {
    throw new TypeError('encoded')
  }
  const encoder = new PromptEncoder(tokenizer, undefined, 0)
  const about = { field: 'messages', options: {} }
  // No token of '=' has more than 4096 characters, and none of 'x' more than one.
  const message = 'The prompt of 100000 characters exceeds the model context.'
  await expect(encoder.encode('x'.repeat(100_000), info, about)).rejects.toThrow(message)
  await expect(encoder.encode('='.repeat(100_000), info, about)).rejects.toThrow('encoded')
})

describe.skipIf(goldens.length === 0).each(goldenNames)('of %s', (name) => {
  test('no text has fewer tokens than is said', () => {
    const tokenizer = goldenTokenizer(name)
    const fewest = new FewestTokens(tokenizer)
    const pieces = Array.from({ length: tokenizer.vocabularySize }, (_, token) => token)
      .map((token) => tokenizer.textOf(token) ?? '')
      .sort((a, b) => b.length - a.length)
    const random = new Random(1)
    const longest = pieces.slice(0, 200)
    const mixed = Array.from({ length: 200 }, () => {
      return Array.from({ length: 20 }, () => pieces[random.integer(pieces.length)]!).join('')
    })
    const written = goldens.filter(({ tokenizer }) => tokenizer === name).map(({ text }) => text)
    for (const text of [...longest, ...longest.map((piece) => piece.repeat(20)), ...mixed, ...written]) {
      const tokens = tokenizer.encode(text, { addSpecial: false }).length
      expect(fewest.of(text), text).toBeLessThanOrEqual(tokens + 1e-9)
    }
  })
})
