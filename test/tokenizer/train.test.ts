import { expect, test } from 'vitest'
import { tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { trainByteLevelBpe } from '../../src/tokenizer/train.ts'

type Trained = {
  model: { vocab: Record<string, number>; merges: [string, string][] }
  added_tokens: { id: number }[]
}

function train(texts: string[], vocabularySize: number, specialTokens: string[] = []): Trained {
  return trainByteLevelBpe(texts, { vocabularySize, specialTokens }) as Trained
}

test('the most frequent pair is merged first, and of equals the one with the lowest ids', () => {
  // "ab" stands 3 times; "cd" and "ef" twice.
  const { merges } = train(['ab ab ab', 'ef ef', 'cd cd'], 256 + 3).model
  expect(merges.slice(0, 1)).toEqual([['a', 'b']])
  expect(merges.slice(1, 3)).toEqual([
    ['c', 'd'],
    ['e', 'f'],
  ])
})

test('every merge is what recounting all words from scratch would choose', () => {
  const text = 'low lower lowest newer newest wider aaaa aaa aaaaa banana bandana anna lowlow '.repeat(3)
  expect(train([text], 256 + 40).model.merges).toEqual(naiveMerges(text, 40))
})

/** BPE training by its definition: count all pairs, merge the best, again. */
function naiveMerges(text: string, mergesMax: number): [string, string][] {
  const base = train([], 256).model.vocab
  const ids = new Map(Object.entries(base))
  let words = [...text.matchAll(/ ?\p{L}+|\s+(?!\S)|\s+/gu)].map(([word]) => [...word.replaceAll(' ', 'Ġ')])
  const merges: [string, string][] = []
  while (merges.length < mergesMax) {
    const counts = new Map<string, number>()
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) {
        const key = JSON.stringify([word[i], word[i + 1]])
        counts.set(key, (counts.get(key) ?? 0) + 1)
      }
    const order = (key: string) => JSON.parse(key).map((piece: string) => ids.get(piece)!) as [number, number]
    const best = [...counts].sort(([a, countA], [b, countB]) => {
      const [left, right] = [order(a), order(b)]
      return countB - countA || left[0] - right[0] || left[1] - right[1]
    })[0]
    if (best === undefined) break
    const [left, right] = JSON.parse(best[0]) as [string, string]
    merges.push([left, right])
    if (!ids.has(left + right)) ids.set(left + right, ids.size)
    words = words.map((word) => {
      const merged: string[] = []
      for (let i = 0; i < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) merged.push(left + word[++i])
        else merged.push(word[i]!)
      }
      return merged
    })
  }
  return merges
}

test('special tokens get the first ids and nothing is learned across or from them', () => {
  const { model, added_tokens } = train(['once<|end|>once<|end|>upon<|end|>'], 300, ['<|end|>', '<|pad|>'])
  expect(added_tokens.map(({ id }) => id)).toEqual([0, 1])
  expect(model.vocab['<|end|>']).toBe(0)
  expect(model.merges.flat().join('')).not.toContain('|')
})

test('training stops early when nothing is left to merge', () => {
  expect(Object.keys(train(['ab'], 1000).model.vocab)).toHaveLength(257)
})

test('a vocabulary without room for the bytes is refused', () => {
  expect(() => train(['a'], 100)).toThrow('A vocabulary of 100 has no room for 256')
})

test('progress ends at the merges that were learned', () => {
  const seen: number[] = []
  const text = Array.from({ length: 500 }, (_, index) => `w${(index * 7919) % 4096}x`).join(' ')
  trainByteLevelBpe([text], {
    vocabularySize: 256 + 250,
    specialTokens: [],
    onProgress: ({ merges, mergesMax }) => seen.push(merges / mergesMax),
  })
  expect(seen.length).toBeGreaterThanOrEqual(3)
  expect(seen.at(-1)).toBe(1)
})

test('the trained tokenizer encodes its special tokens and any other text', () => {
  const tokenizer = tokenizerFromJson(train(['hello world hello'], 270, ['<|end|>']))
  const text = 'hello 안녕 \u0000😀<|end|>'
  const ids = tokenizer.encode(text)
  expect(ids.at(-1)).toBe(0)
  expect(tokenizer.decode(ids)).toBe(text)
})
