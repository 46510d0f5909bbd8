import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { causalMask, documentMask } from '../../src/train/attention.ts'
import { characterTokenizer } from '../../src/train/character-tokenizer.ts'
import { type Document, PackedDocuments } from '../../src/train/packing.ts'
import { learningRateAt } from '../../src/train/schedule.ts'
import { RandomWindows } from '../../src/train/windows.ts'

const stream = Int32Array.from({ length: 100 }, (_, i) => i)

describe('random windows', () => {
  test('the batch of a place does not depend on what was asked before', () => {
    const forwards = new RandomWindows(stream, 3, 8, 5)
    const backwards = new RandomWindows(stream, 3, 8, 5)
    const places = [0, 1, 2, 3]
    const first = places.map((place) => forwards.at(place))
    const second = [...places].reverse().map((place) => backwards.at(place))
    expect(first).toEqual(second.reverse())
    expect(first[0]!.ids).not.toEqual(first[1]!.ids)
  })

  test('every target is the token that follows', () => {
    const { ids, targets } = new RandomWindows(stream, 4, 8, 1).at(7)
    for (const [i, id] of ids.entries()) expect(targets[i]).toBe(id + 1)
  })

  test('all windows of the text are drawn, the first and the last too', () => {
    const source = new RandomWindows(stream.subarray(0, 12), 2, 8, 1)
    const starts = new Set(Array.from({ length: 40 }, (_, i) => source.at(i).ids[0]))
    expect([...starts].sort()).toEqual([0, 1, 2, 3])
  })

  test('a text shorter than one row is refused with what to do', () => {
    expect(() => new RandomWindows(stream.subarray(0, 8), 1, 8, 1)).toThrow(/8 tokens/)
  })
})

describe('packed documents', () => {
  const random = new Random(3)
  const lengths = Array.from({ length: 60 }, () => 1 + random.integer(40))
  let next = 0
  const documents: Document[] = lengths.map((length) => ({
    tokens: Int32Array.from({ length }, () => next++),
  }))
  const owner = lengths.flatMap((length, document) => new Array<number>(length).fill(document))
  const [sequences, tokens] = [3, 16]
  const packed = new PackedDocuments(documents, sequences, tokens, 9)

  test('one pass learns every token of every document once, but for the first ones', () => {
    const learned = new Map<number, number>()
    for (let row = 0; row < packed.rows; row++) {
      const { targets, weights } = new PackedDocuments(documents, 1, tokens, 9).at(row)
      for (const [i, target] of targets.entries())
        if (weights[i] === 1) learned.set(target, (learned.get(target) ?? 0) + 1)
    }
    const expected = documents.flatMap((document) => [...document.tokens.slice(1)])
    expect([...learned.keys()].sort((a, b) => a - b)).toEqual(expected)
    expect([...learned.values()].every((count) => count === 1)).toBe(true)
  })

  test('positions start again with each document and no target crosses into the next', () => {
    for (let index = 0; index < 20; index++) {
      const { ids, positions, targets, weights, documents: numbers } = packed.at(index)
      for (let i = 0; i < ids.length; i++) {
        if (weights[i] === 0) continue
        expect(owner[targets[i]!]).toBe(owner[ids[i]!])
        expect(targets[i]).toBe(ids[i]! + 1)
        const sameAsBefore = i % tokens > 0 && numbers![i] === numbers![i - 1]
        expect(positions[i]).toBe(sameAsBefore ? positions[i - 1]! + 1 : 0)
      }
    }
  })

  test('each pass has an order of its own and takes each row once', () => {
    const single = new PackedDocuments(documents, 1, tokens, 9)
    const pass = (epoch: number) =>
      Array.from({ length: single.rows }, (_, i) => single.at(epoch * single.rows + i).ids.join())
    expect(pass(0)).not.toEqual(pass(1))
    expect(pass(0).sort()).toEqual(pass(1).sort())
  })

  test('rows are nearly full', () => {
    expect(packed.fillRate).toBeGreaterThan(0.95)
  })

  test('every target weighs what its token weighs in the sample', () => {
    const sample = { tokens: Int32Array.of(5, 6, 7, 8, 9), weights: Float32Array.of(0, 0, 0, 0.5, 1) }
    const source = new PackedDocuments([sample], 1, 8, 1)
    expect([...source.at(0).weights]).toEqual([0, 0, 0.5, 1, 0, 0, 0, 0])
  })

  test('documents that lie elsewhere are packed by their lengths and read when their batch is asked for', () => {
    const read: number[] = []
    const list = {
      length: documents.length,
      lengthOf: (index: number) => lengths[index]!,
      part: (index: number, start: number, end: number) => {
        read.push(index)
        return { tokens: documents[index]!.tokens.subarray(start, end) }
      },
    }
    const lazy = new PackedDocuments(list, sequences, tokens, 9)
    expect(read).toEqual([])
    expect(lazy.at(2)).toEqual(packed.at(2))
    expect(read.length).toBeLessThan(documents.length)
  })
})

test('a document mask of one document is the causal mask', () => {
  const mask = new Float32Array(7 * 7)
  documentMask(new Int32Array(7), 7, mask)
  expect(mask).toEqual(causalMask(7))
})

test('a document mask hides the neighbours in the row and in the batch', () => {
  const mask = new Float32Array(2 * 4 * 4)
  documentMask(Int32Array.of(0, 0, 1, 1, 1, 1, 1, -1), 4, mask)
  const seen = Array.from({ length: 8 }, (_, row) =>
    [0, 1, 2, 3].filter((column) => mask[row * 4 + column] === 0).join(''),
  )
  expect(seen).toEqual(['0', '01', '2', '23', '0', '01', '012', '3'])
})

test('schedules climb, fall and stay as written', () => {
  const base = { learningRate: 1, learningRateMin: 0.1, warmupSteps: 3, decaySteps: 13 }
  const cosine = (step: number) => learningRateAt({ ...base, kind: 'cosine' }, step)
  expect([0, 1, 2].map(cosine)).toEqual([0.25, 0.5, 0.75])
  expect(cosine(3)).toBe(1)
  expect(cosine(8)).toBeCloseTo(0.55)
  expect(cosine(13)).toBe(0.1)
  expect(cosine(1000)).toBe(0.1)
  expect(learningRateAt({ ...base, kind: 'linear' }, 8)).toBeCloseTo(0.55)
  expect(learningRateAt({ ...base, kind: 'linear' }, 5)).toBeCloseTo(0.82)
  expect(learningRateAt({ ...base, kind: 'constant' }, 1000)).toBe(1)
})

test('a character tokenizer numbers the characters by code point and reads them back', () => {
  const text = 'to be,\nor not 😀 é'
  const tokenizer = tokenizerFromJson(characterTokenizer([text]))
  const ids = tokenizer.encode(text)
  expect(ids).toHaveLength([...text].length)
  expect(tokenizer.decode(ids)).toBe(text)
  expect(tokenizer.encode('\n')).toEqual([0])
})
