import { mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { neverInterrupted } from '../../../src/base/pauses.ts'
import { ChatTemplate } from '../../../src/tokenizer/chat-template.ts'
import { preparing } from '../../../src/train/data/preparing.ts'
import type { Sample } from '../../../src/train/data/sample.ts'
import { type CacheOptions, cachedSamples } from '../../../src/train/data/sample-cache.ts'
import { concatenated, splitSamples } from '../../../src/train/data/sample-list.ts'
import { SampleStore, StoreWriter } from '../../../src/train/data/sample-store.ts'
import { evict } from '../../../src/train/data/store-cache.ts'
import type { TextKit } from '../../../src/train/text-kit.ts'
import { byteTokenizer } from '../../openai/byte-tokenizer.ts'
import { testFolder, write } from './folder.ts'

const folder = testFolder()
const report = { samples: 0, tokens: 0, trainedTokens: 0, endingSamples: 0, cutSamples: 0, longestTokens: 0 }
const rest = { problemCounts: {}, problems: [], notes: [] }

let stores = 0
async function storeOf(samples: readonly Sample[]): Promise<SampleStore> {
  const path = join(folder, `store-${stores++}`)
  using writer = new StoreWriter(path)
  for (const sample of samples) writer.add(sample)
  writer.finish({ ...report, samples: samples.length, ...rest }, new Map())
  return await SampleStore.open(path, neverInterrupted)
}

function sampleOf(tokens: number[], weights: number[], line = 1): Sample {
  return { tokens: Int32Array.from(tokens), weights: Float32Array.from(weights), source: { file: 'f', line } }
}

describe('a store', () => {
  const samples = [
    sampleOf([1, 2, 3, 4], [0, 0, 1, 1], 3),
    sampleOf([5], [1], 4),
    sampleOf([-1, 2 ** 31 - 1, 7], [0.5, 0, 0.25], 9),
  ]

  test('gives back every sample as it was, in any order', async () => {
    using store = await storeOf(samples)
    expect([2, 0, 1].map((index) => store.at(index))).toEqual([samples[2], samples[0], samples[1]])
    expect([0, 1, 2].map((index) => [store.lengthOf(index), store.trainedOf(index)])).toEqual([
      [4, 2],
      [1, 0],
      [3, 1],
    ])
  })

  test('tells equal samples from others', async () => {
    using store = await storeOf([
      ...samples,
      sampleOf([1, 2, 3, 4], [0, 0, 1, 1], 77),
      sampleOf([1, 2, 3, 4], [0, 1, 1, 1]),
    ])
    expect(store.hashOf(3)).toBe(store.hashOf(0))
    expect(store.hashOf(4)).not.toBe(store.hashOf(0))
  })
})

describe('what is held out', () => {
  const many = Array.from({ length: 400 }, (_, i) =>
    sampleOf([i % 200, i % 7, 3], [0, 1, 1], 1 + Math.floor(i / 2)),
  )

  test('is the asked share, and the rest is learned from, each once', async () => {
    using store = await storeOf(many)
    const { training, validation } = splitSamples(store, 0.1, 5)
    expect(Math.abs(validation.length - 40)).toBeLessThanOrEqual(8)
    expect(training.length + validation.length).toBe(400)
  })

  test('never shares a sample or a record with what is learned, and depends on content and seed only', async () => {
    using store = await storeOf(many)
    using turned = await storeOf([...many].reverse())
    const hashesOf = (list: { length: number; hashOf: (index: number) => number }) =>
      new Set(Array.from({ length: list.length }, (_, i) => list.hashOf(i)))
    const { training, validation } = splitSamples(store, 0.1, 5)
    const learned = hashesOf(training)
    expect([...hashesOf(validation)].filter((hash) => learned.has(hash))).toEqual([])
    const lines = (list: typeof training) =>
      new Set(Array.from({ length: list.length }, (_, i) => list.sourceOf(i).line))
    expect([...lines(validation)].filter((line) => lines(training).has(line))).toEqual([])
    expect(splitSamples(turned, 0.1, 5).validation.length).toBeGreaterThan(0)
    expect(hashesOf(splitSamples(store, 0.1, 6).validation)).not.toEqual(hashesOf(validation))
  })

  test('is one record at least and never everything', async () => {
    using store = await storeOf(many.slice(0, 4))
    expect(splitSamples(store, 0.01, 1).validation.length).toBeGreaterThan(0)
    expect(splitSamples(store, 0.9, 1).training.length).toBeGreaterThan(0)
    expect(splitSamples(store, 0, 1).validation.length).toBe(0)
  })
})

test('several stores behind one another are one list', async () => {
  using one = await storeOf([sampleOf([1, 1], [0, 1])])
  using two = await storeOf([sampleOf([2, 2], [0, 1]), sampleOf([3, 3], [0, 1])])
  const list = concatenated([one, two])
  expect([0, 1, 2].map((index) => list.part(index, 0, 1).tokens[0])).toEqual([1, 2, 3])
})

describe('the cache', () => {
  const tokenizer = byteTokenizer()
  const template = new ChatTemplate('{% for m in messages %}{{ m.content }}<|end|>{% endfor %}')
  const kit: TextKit = { tokenizer, template, files: {}, hash: 'kit' }
  const notes: string[] = []
  const cacheFolder = join(folder, 'cache')
  const options: CacheOptions = {
    baseFolder: folder,
    contextMax: 64,
    tooLong: 'cut',
    trainEndOfTurn: true,
    vocabularySize: tokenizer.vocabularySize,
    cacheFolder,
    preparing: preparing((text) => notes.push(text)),
  }
  const names = () =>
    readdirSync(join(cacheFolder, 'samples'))
      .filter((name) => name !== '.turns')
      .sort()
  write(folder, 'data.jsonl', '{"prompt":"a","completion":"b"}\n{"prompt":"c","completion":"d"}\n')
  const source = { files: { path: 'data.jsonl' } }

  test('makes samples once for the same content, and again when anything changed that decides them', async () => {
    using first = await cachedSamples(source, kit, options)
    const [name] = names()
    using second = await cachedSamples(source, kit, options)
    expect(names()).toEqual([name])
    expect(second.at(1)).toEqual(first.at(1))
    using _third = await cachedSamples(source, { ...kit, hash: 'other' }, options)
    using _fourth = await cachedSamples(source, kit, { ...options, contextMax: 32 })
    using _fifth = await cachedSamples({ ...source, format: 'prompt' }, kit, options)
    expect(names()).toHaveLength(4)
    write(folder, 'data.jsonl', '{"prompt":"a","completion":"B"}\n')
    using changed = await cachedSamples(source, kit, options)
    expect(changed.length).toBe(1)
    expect(names()).toHaveLength(5)
  })

  test('makes a damaged store again and says so', async () => {
    using first = await cachedSamples(source, kit, options)
    for (const name of names()) {
      const path = join(cacheFolder, 'samples', name, 'samples.bin')
      const bytes = readFileSync(path)
      bytes[0]! ^= 1
      writeFileSync(path, bytes)
    }
    using second = await cachedSamples(source, kit, options)
    expect(second.hash).toBe(first.hash)
    expect(notes.join()).toMatch(/damaged/)
  })

  test('leaves nothing behind when the data cannot be read', async () => {
    const before = names()
    write(folder, 'broken.jsonl', '{"prompt":"a","completion":"b"}\n{')
    await expect(cachedSamples({ files: { path: 'broken.jsonl' } }, kit, options)).rejects.toThrow(
      /broken\.jsonl:2/,
    )
    expect(names()).toEqual(before)
  })

  test('drops what was not used for longest when it grows too large, never what is in use', () => {
    const root = join(folder, 'full')
    for (const [index, name] of ['a', 'b', 'c'].entries()) {
      mkdirSync(join(root, name), { recursive: true })
      writeFileSync(join(root, name, 'samples.bin'), Buffer.alloc(1000))
      utimesSync(join(root, name), index, index)
    }
    evict(root, 2000, join(root, 'a'))
    expect(readdirSync(root).sort()).toEqual(['a', 'c'])
  })
})
