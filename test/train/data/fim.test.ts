/** Documents that teach to fill in: nothing of them is lost, and where they are parted hangs on the seed and their tokens. */
import { mkdirSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { type Tokenizer, tokenizerFromJson } from '../../../src/tokenizer/tokenizer.ts'
import { GapMaker } from '../../../src/train/data/gap-maker.ts'
import { loadSamples } from '../../../src/train/data/load.ts'
import { preparing } from '../../../src/train/data/preparing.ts'
import { prepareData } from '../../../src/train/job-data.ts'
import { characterKit } from '../../../src/train/text-kit.ts'
import { goldenNames, goldenTokenizer } from '../../tokenizer/goldens.ts'
import { addedToken, byteFallbackJson } from '../../tokenizer/small-tokenizers.ts'
import { tinyJob } from '../tiny-job.ts'
import { all, testFolder, write } from './folder.ts'

const folder = testFolder()
const silent = preparing(() => undefined)
const text = 'function add(a, b) {\n  return a + b // 더하기 👩‍🚀\n}\n'.repeat(12)
const characters = characterKit([text], { chats: false, fim: true }).tokenizer

interface Options {
  rate?: number
  spm_rate?: number
  context?: number
  seed?: number
}

function fragmentsOf(tokenizer: Tokenizer, options: Options = {}, step = 1000) {
  const { rate = 1, spm_rate = 0.5, context = 96, seed = 3 } = options
  const maker = new GapMaker(tokenizer, { rate, spm_rate }, { context, seed, beginsTexts: false })
  const document = maker.document(0)
  const tokens = tokenizer.encodeTyped(text, maker.reading)
  const fragments: Int32Array[] = []
  for (let at = 0; at < tokens.length; at += step)
    fragments.push(...document.push(tokens.subarray(at, at + step)))
  return [...fragments, ...document.end()].map((fragment) => [...fragment])
}

/** The text of a fragment as it was before, and which order it has. */
function read(tokenizer: Tokenizer, fragment: readonly number[], isFirst: boolean) {
  const { prefix, suffix, middle } = tokenizer.fillIn!
  const at = [prefix, suffix, middle!].map((mark) => fragment.indexOf(mark)) as [number, number, number]
  const begin = isFirst ? [] : tokenizer.encode('☺', { addSpecial: false })
  const part = (from: number, to: number) => fragment.slice(from, to)
  const plain = (tokens: readonly number[]) =>
    tokenizer.decode([...begin, ...tokens], { skipSpecial: true }).replace('☺', '')
  if (at[0] < 0) return { order: 'plain', text: plain(fragment) }
  const order = at[1] === at[0] + 1 ? 'spm' : 'psm'
  const inside = tokenizer.encode('☺', { addSpecial: false })
  const rest = (tokens: readonly number[]) =>
    tokenizer.decode([...inside, ...tokens], { skipSpecial: true }).replace('☺', '')
  const end = fragment.length - 1
  if (order === 'psm') {
    const before = tokenizer.decode(part(at[0] + 1, at[1]))
    return { order, text: before + rest(part(at[2] + 1, end)) + rest(part(at[1] + 1, at[2])) }
  }
  return { order, text: tokenizer.decode(part(at[2] + 1, end)) + rest(part(at[1] + 1, at[2])) }
}

const sentencePiece = () => {
  const base = byteFallbackJson()
  const marks = ['▁<PRE>', '▁<SUF>', '▁<MID>', '▁<EOT>'].map((mark, i) => addedToken(1000 + i, mark))
  const added_tokens = [...(base.added_tokens as object[]), ...marks]
  return tokenizerFromJson({ ...base, added_tokens }, { bos_token: '<s>', eos_token: '</s>' })
}

describe('a document', () => {
  const tokenizers: [string, () => Tokenizer][] = [
    ['characters', () => characters],
    ['SentencePiece', sentencePiece],
    ...goldenNames
      .filter((name) => name === 'qwen3')
      .map((name): [string, () => Tokenizer] => [name, () => goldenTokenizer(name)]),
  ]
  test.each(tokenizers)(
    'of %s loses nothing, has both orders, fits its rows and ends each gap',
    (_, make) => {
      const tokenizer = make()
      for (const [spm_rate, orders] of [
        [0, ['psm']],
        [1, ['spm']],
        [0.5, ['psm', 'spm']],
      ] as const) {
        const fragments = fragmentsOf(tokenizer, { spm_rate, context: 40 })
        const parts = fragments.map((fragment, i) => read(tokenizer, fragment, i === 0))
        expect(parts.map((part) => part.text).join('')).toBe(text)
        // An empty prefix looks the same in both.
        const most = orders.filter(
          (order) => parts.filter((part) => part.order === order).length > parts.length / 5,
        )
        expect(most).toEqual(orders)
        if (spm_rate === 1) expect(parts.every((part) => part.order === 'spm')).toBe(true)
        const ends = new Set(fragments.map((fragment) => fragment.at(-1)))
        expect([...ends]).toEqual([tokenizer.fillIn!.end ?? tokenizer.eosTokens[0]])
        expect(Math.max(...fragments.map(({ length }) => length))).toBeLessThanOrEqual(40)
      }
    },
  )

  test('is parted alike however its tokens come, and otherwise by another seed', () => {
    const whole = fragmentsOf(characters)
    expect(fragmentsOf(characters, {}, 7)).toEqual(whole)
    expect(fragmentsOf(characters, { seed: 4 })).not.toEqual(whole)
    const document = (number: number) => {
      const maker = new GapMaker(
        characters,
        { rate: 1, spm_rate: 0.5 },
        { context: 96, seed: 3, beginsTexts: false },
      )
      return [...maker.document(number).end()].concat([
        ...maker.document(number).push(characters.encodeTyped(text)),
      ])
    }
    expect(document(5)).toEqual(document(5))
    expect(document(6)).not.toEqual(document(5))
  })

  test('keeps so many fragments as they are as the rate leaves', () => {
    const orders = (rate: number) =>
      fragmentsOf(characters, { rate, context: 32 }).map(
        (fragment) => read(characters, fragment, false).order,
      )
    expect(new Set(orders(0))).toEqual(new Set(['plain']))
    const half = orders(0.5)
    const kept = half.filter((order) => order === 'plain').length / half.length
    expect(kept).toBeGreaterThan(0.2)
    expect(kept).toBeLessThan(0.8)
    const plain = fragmentsOf(characters, { rate: 0 }).flat()
    expect(plain).toEqual([...characters.encode(text), characters.eosTokens[0]])
  })
})

describe('a job with data.fim', () => {
  const fim = { rate: 1, spm_rate: 0 }
  const context = 48
  const marked = (tokens: Iterable<number>, tokenizer: Tokenizer) =>
    [...tokens].filter((token) => token === tokenizer.fillIn!.middle).length

  test('learns from gaps in texts and in records, the same ones each time', async () => {
    mkdirSync(folder, { recursive: true })
    write(folder, 'code.txt', text)
    write(folder, 'code.jsonl', ['a', 'b'].map((name) => JSON.stringify({ text: name + text })).join('\n'))
    for (const data of [
      { text: 'code.txt', validation: 0.1, rows: 'documents', fim },
      { train: 'code.jsonl', validation: 0, fim },
    ]) {
      const job = (seed: number) => tinyJob(folder, { data, context, seed, tokenizer: { byte_pairs: 300 } })
      using once = await prepareData(job(3), undefined, silent)
      using twice = await prepareData(job(3), undefined, silent)
      using other = await prepareData(job(4), undefined, silent)
      expect(twice.hash).toBe(once.hash)
      expect(other.hash).not.toBe(once.hash)
      expect(twice.training.at(5).ids).toEqual(once.training.at(5).ids)
      expect(marked(once.training.at(0).ids, once.kit.tokenizer)).toBeGreaterThan(0)
    }
  })

  test('reads no mark in a text that spells one', async () => {
    const kit = characterKit([text, '<|fim_middle|>'], { chats: false, fim: true })
    write(folder, 'spelt.jsonl', JSON.stringify({ text: '<|fim_middle|>'.repeat(2) }))
    const gaps = new GapMaker(kit.tokenizer, fim, { context, seed: 1, beginsTexts: true })
    const options = { baseFolder: folder, contextMax: context, gaps }
    const [sample] = await all(
      loadSamples([{ files: { path: 'spelt.jsonl' } }], kit.tokenizer, undefined, options),
    )
    expect(marked(sample!.tokens, kit.tokenizer)).toBe(1)
    expect(sample!.tokens.length).toBe(28 + 4)
  })

  test('is refused with what to do where it cannot be', async () => {
    const windows = { text: 'code.txt', fim }
    expect(() => tinyJob(folder, { data: windows })).toThrow(/data\.fim.*data\.rows: documents/s)
    expect(() => tinyJob(folder, { data: { ...windows, rows: 'documents', fim: { rate: 2 } } })).toThrow(
      /data\.fim\.rate/,
    )
    const short = tinyJob(folder, { data: { ...windows, rows: 'documents' }, context: 8 })
    await expect(prepareData(short, undefined, silent)).rejects.toThrow(/data\.fim.*leaves too little text/)
    const tokenizer = characterKit([text], { chats: false, fim: false }).tokenizer
    expect(
      () => new GapMaker(tokenizer, { rate: 1, spm_rate: 0 }, { context, seed: 1, beginsTexts: false }),
    ).toThrow(/tokens that mark a gap/)
  })
})
