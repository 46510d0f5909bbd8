/** Texts in pieces: the same tokens, order and hash as if every text were encoded whole, at any length. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { UserError } from '../../../src/base/errors.ts'
import { atOnce } from '../../../src/base/pauses.ts'
import { Random } from '../../../src/base/random.ts'
import { WordCounts } from '../../../src/tokenizer/train.ts'
import { PieceEncoder } from '../../../src/train/data/piece-encoder.ts'
import { preparing } from '../../../src/train/data/preparing.ts'
import { StoreWriter } from '../../../src/train/data/sample-store.ts'
import { cachedStore } from '../../../src/train/data/store-cache.ts'
import { TextCutter } from '../../../src/train/data/text-cutter.ts'
import { prepareData } from '../../../src/train/job-data.ts'
import { learningByteLevelKit, specialTokensOf, textKitFrom } from '../../../src/train/text-kit.ts'
import { goldenNames, goldenTokenizer } from '../../tokenizer/goldens.ts'
import { tinyJob } from '../tiny-job.ts'
import { testFolder, write } from './folder.ts'

const folder = testFolder()
const silent = preparing(() => undefined)
const random = new Random(11)
const words = [
  ...['rope', 'Way', '  cabin', 'never.', "don't", '\n', '\n\n', '\n\n\n', '\r\n', '\t', '12345', '"so,"\n'],
  ...['안녕하세요', '日本語です', 'é', '👩‍🚀', ' ', '   ', 'x'.repeat(40), 'λ→', '();\n', '\u00a0'],
]
const text = Array.from(
  { length: 9000 },
  () => words[random.integer(words.length)] + (random.uniform() < 0.5 ? ' ' : ''),
).join('')
const prose = Array.from(
  { length: 3000 },
  (_, i) => `${words[i % 5]} ${words[(i * 7) % 3]}${i % 4 === 0 ? '.\n\n' : ' '}`,
).join('')

describe('pieces', () => {
  test.runIf(goldenNames.length > 0).each(['qwen3', 'llama3_1', 'gemma3', 'gptoss', 'stories260K'])(
    'of a text have the tokens of the whole text with the tokenizer of %s',
    (name) => {
      const tokenizer = goldenTokenizer(name)
      const plain = { addSpecial: false, parseSpecial: false }
      for (const whole of [text.slice(0, 30_000), prose.slice(0, 30_000)]) {
        const encoder = new PieceEncoder(tokenizer, 2000)
        const parts = [
          ...encoder.push(whole.slice(0, 10_001)),
          ...encoder.push(whole.slice(10_001)),
          ...encoder.end(),
        ]
        expect(parts.length).toBeGreaterThan(9)
        expect(parts.flatMap((tokens) => [...tokens])).toEqual(tokenizer.encode(whole, plain))
      }
    },
  )

  test('lie where they lie however the text comes in, and a text without a seam is cut all the same', () => {
    const cut = (step: number, isSeam: () => boolean) => {
      const cutter = new TextCutter(isSeam, 1000)
      const pieces: string[] = []
      for (let at = 0; at < text.length; at += step)
        for (const piece of cutter.push(text.slice(at, at + step))) pieces.push(piece.text)
      return [...pieces, ...[...cutter.end()].map((piece) => piece.text)]
    }
    for (const isSeam of [() => true, () => false]) {
      const pieces = cut(text.length, isSeam)
      expect(pieces.join('')).toBe(text)
      expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThanOrEqual(1512)
      expect(cut(333, isSeam)).toEqual(pieces)
    }
    const single = new TextCutter(() => false, 100)
    expect([...single.push('y'.repeat(650))].map((piece) => piece.text.length)).toEqual([100])
  })

  test('of a learned tokenizer make the data of the whole text, split and hashed as it always was', async () => {
    mkdirSync(join(folder, 'parts'))
    write(folder, 'parts/a_2.txt', text)
    write(folder, 'parts/a_10.txt', `\ufeff${prose}`)
    write(folder, 'parts/empty.txt', '')
    for (const tokenizer of ['characters', { byte_pairs: 400 }]) {
      const job = tinyJob(folder, { data: { text: 'parts', validation: 0.1 }, tokenizer })
      using data = await prepareData(job, undefined, silent)
      const hash = createHash('sha256')
      let held = 0
      const end = data.kit.tokenizer.eosTokens.slice(0, 1)
      for (const content of [text, prose]) {
        const cut = Math.floor(content.length * (1 - 0.1))
        const encode = (part: string) =>
          Int32Array.from([
            ...data.kit.tokenizer.encode(part, { addSpecial: false, parseSpecial: false }),
            ...end,
          ])
        hash.update(new Uint8Array(encode(content.slice(0, cut)).buffer)).update('|')
        held += encode(content.slice(cut)).length
      }
      expect(data.hash).toBe(hash.digest('hex'))
      expect(data.summary.validationTokens).toBe(held)
      const learned = [text, prose].map((content) => content.slice(0, Math.floor(content.length * (1 - 0.1))))
      const special = specialTokensOf({ chats: true, fim: false })
      const counts = new WordCounts(special)
      for (const part of learned) counts.add(part)
      if (typeof tokenizer === 'object')
        expect(data.kit.hash).toBe(atOnce(learningByteLevelKit(counts, 400, special)).hash)
      else expect(data.kit.tokenizer.vocabularySize).toBe(new Set([...learned.join('')]).size)
    }
  })
})

/** Folders that the cache would hand out, and what was begun. */
const wholeIn = (root: string) => readdirSync(root).filter((name) => name !== '.turns')

describe('texts of a job', () => {
  const cacheFolder = join(folder, 'cache')
  const jobOf = (path: string) => ({
    ...tinyJob(folder, { data: { text: path, validation: 0.1 }, tokenizer: { byte_pairs: 300 } }),
    cacheFolder,
  })
  write(folder, 'prose.txt', prose)
  const read = async (path: string) => {
    const notes: string[] = []
    using data = await prepareData(
      jobOf(path),
      undefined,
      preparing((note) => notes.push(note)),
    )
    return {
      hash: data.hash,
      batch: data.training.at(3),
      isMade: notes.includes('Making tokens of the texts.'),
      notes,
    }
  }

  test('are made into tokens once, wherever they lie, and again when a file changed', async () => {
    const first = await read('prose.txt')
    expect(first.isMade).toBe(true)
    const second = await read('prose.txt')
    expect(second).toMatchObject({ hash: first.hash, isMade: false })
    expect(second.batch).toEqual(first.batch)
    mkdirSync(join(folder, 'elsewhere'))
    write(folder, 'elsewhere/other.txt', prose)
    expect(await read('elsewhere')).toMatchObject({ hash: first.hash, isMade: false })
    write(folder, 'prose.txt', `${prose.slice(0, -1)}!`)
    expect((await read('prose.txt')).isMade).toBe(true)
    write(folder, 'prose.txt', prose)
  })

  test('are never divided within a character', async () => {
    // Characters of two UTF-16 units: the middle lies within one.
    write(folder, 'faces.txt', '😀🙃😀🙃😀🙃😀🙃😀')
    const job = tinyJob(folder, { data: { text: 'faces.txt', validation: 0.5 }, context: 2, batch: 1 })
    using data = await prepareData(job, undefined, silent)
    expect(data.kit.tokenizer.vocabularySize).toBe(2)
    expect([data.summary.trainingTokens, data.summary.validationTokens]).toEqual([4, 4])
  })

  test('of which too little is held out for one row are refused as that, and too short ones as such', async () => {
    const read = (data: object, context: number) =>
      prepareData(
        tinyJob(folder, { data: { text: 'faces.txt', ...data }, context, batch: 1 }),
        undefined,
        silent,
      )
    await expect(read({ validation: 0.2 }, 4)).rejects.toMatchObject({
      message: expect.stringMatching(
        /^The held-out part of the text has \d tokens, and one row alone takes 4/,
      ),
      fix: expect.stringContaining('a larger data.validation, or 0'),
    })
    await expect(read({ validation: 0.2 }, 40)).rejects.toThrow(/^The text has \d tokens/)
    using data = await read({ validation: 0 }, 4)
    expect(data.summary.validationTokens).toBe(0)
  })

  test('may be gzipped', async () => {
    write(folder, 'zipped.txt.gz', gzipSync(prose))
    expect((await read('zipped.txt.gz')).hash).toBe((await read('prose.txt')).hash)
  })

  test('are made again when what the cache holds is damaged', async () => {
    const first = await read('prose.txt')
    for (const name of wholeIn(join(cacheFolder, 'texts')))
      writeFileSync(join(cacheFolder, 'texts', name, 'training.bin'), 'x')
    const second = await read('prose.txt')
    expect(second).toMatchObject({ hash: first.hash, isMade: true })
    expect(second.notes.join()).toMatch(/damaged/)
  })

  test('that are not UTF-8 are refused with file and line, and nothing is left in the cache', async () => {
    write(folder, 'latin.txt', Buffer.from('one\ntwo\ncaf\xe9\n', 'latin1'))
    const before = wholeIn(join(cacheFolder, 'texts'))
    await expect(read('latin.txt')).rejects.toThrow(/latin\.txt:3: the line is not UTF-8/)
    expect(wholeIn(join(cacheFolder, 'texts'))).toEqual(before)
  })

  test('leave nothing half made wherever they are interrupted, and are the same when made again', async () => {
    const job = { ...jobOf('prose.txt'), cacheFolder: join(folder, 'interrupted') }
    const namesOf = (kind: string) => {
      const root = join(job.cacheFolder, kind)
      return existsSync(root) ? wholeIn(root) : []
    }
    let interruptions = 0
    for (let last = 0; ; last++) {
      let pauses = 0
      const pause = async () => {
        if (pauses++ === last) throw new UserError('Stopped.', { failure: 'interrupted' })
      }
      const prepared = prepareData(job, undefined, { onNote: () => undefined, pause })
      const hash = await prepared.then(
        (data) => {
          data[Symbol.dispose]()
          return data.hash
        },
        (error: UserError) => error.failure,
      )
      const begun = ['texts', 'tokenizers'].flatMap(namesOf).filter((name) => name.startsWith('.'))
      expect(begun).toEqual([])
      if (hash !== 'interrupted') {
        expect(hash).toBe((await read('prose.txt')).hash)
        break
      }
      interruptions++
    }
    expect(interruptions).toBeGreaterThan(20)
  })

  test('go on with the tokenizer of the checkpoint, whatever would be learned now', async () => {
    using data = await prepareData(jobOf('prose.txt'), undefined, silent)
    const saved = join(folder, 'saved')
    mkdirSync(saved)
    for (const [name, content] of Object.entries(data.kit.files)) writeFileSync(join(saved, name), content)
    using again = await prepareData(jobOf('prose.txt'), saved, silent)
    expect(again.hash).toBe(data.hash)
    expect(again.kit.hash).toBe(textKitFrom(saved).hash)
  })
})

describe('a folder of the cache', () => {
  const root = join(folder, 'stores')
  const store = (key: string, make: (folder: string) => Promise<void>, preparing = silent) =>
    cachedStore({
      root,
      key,
      what: 'things',
      make,
      open: (at) => readFileSync(join(at, 'thing'), 'utf8'),
      preparing,
    })

  test('that two want at once is made by one; the other says that it waits', async () => {
    let open: () => void = () => undefined
    const gate = new Promise<void>((resolve) => {
      open = resolve
    })
    const makers: string[] = []
    const make = (who: string) => async (at: string) => {
      makers.push(who)
      writeFileSync(join(at, 'thing'), 'whole')
      await gate
    }
    const first = store('same', make('first'))
    const second = store(
      'same',
      make('second'),
      preparing((note) => {
        expect(note).toMatch(/Another process makes the things; waiting/)
        open()
      }),
    )
    expect(await Promise.all([first, second])).toEqual(['whole', 'whole'])
    expect(makers).toEqual(['first'])
    expect(wholeIn(root)).toEqual(['same'])
  })

  test('for which one waits is not waited for when the run is to end, and is made when its maker is gone', async () => {
    const stop = new AbortController()
    let fail: (error: Error) => void = () => undefined
    const first = store('gone', () => new Promise<void>((_, reject) => (fail = reject)))
    const make = async (at: string) => writeFileSync(join(at, 'thing'), 'later')
    const stopped = store(
      'gone',
      make,
      preparing(() => stop.abort(), stop.signal),
    )
    await expect(stopped).rejects.toMatchObject({ failure: 'interrupted' })
    const later = store(
      'gone',
      make,
      preparing(() => fail(new Error('gone'))),
    )
    await expect(first).rejects.toThrow('gone')
    expect(await later).toBe('later')
  })

  test('that a killed process left half made is no part of the cache, and is removed by the next maker', async () => {
    const half = join(root, '.making-half-x1')
    mkdirSync(half, { recursive: true })
    writeFileSync(join(half, 'thing'), 'ha')
    expect(await store('half', async (at) => writeFileSync(join(at, 'thing'), 'whole'))).toBe('whole')
    expect(existsSync(half)).toBe(false)
    rmSync(join(root, 'half'), { recursive: true })
    rmSync(join(root, 'gone'), { recursive: true })
  })

  test.runIf(existsSync('/dev/full'))(
    'whose making failed does not exist, and a full disk is told with what to do',
    async () => {
      const broken = store('broken', async (at) => {
        writeFileSync(join(at, 'thing'), 'half')
        throw new Error('interrupted')
      })
      await expect(broken).rejects.toThrow(/interrupted/)
      const full = store('full', async (at) => {
        symlinkSync('/dev/full', join(at, 'samples.bin'))
        using writer = new StoreWriter(at)
        const tokens = new Int32Array(1 << 20)
        writer.add({ tokens, weights: new Float32Array(tokens.length), source: { file: 'f', line: 1 } })
      })
      await expect(full).rejects.toThrow(/disk is full.*things.*stores/)
      expect(wholeIn(root)).toEqual(['same'])
    },
  )
})
