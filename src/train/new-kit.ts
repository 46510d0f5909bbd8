/** A tokenizer that a job learns from its own data, made once for each content. */
import { createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../base/assert.ts'
import { writeFileAtomic } from '../base/files.ts'
import { type Steps, withPauses } from '../base/pauses.ts'
import { deriveSeed, uniformAt } from '../base/random.ts'
import { WordCounts } from '../tokenizer/train.ts'
import { loadTexts, recordFiles } from './data/load.ts'
import type { Preparing } from './data/preparing.ts'
import { contentOf } from './data/sample-cache.ts'
import type { SampleData } from './data/sample-data.ts'
import { cachedStore } from './data/store-cache.ts'
import { TextCutter } from './data/text-cutter.ts'
import type { TrainingJob } from './job.ts'
import {
  characterKit,
  type KitUses,
  learningByteLevelKit,
  specialTokensOf,
  type TextKit,
  textKit,
} from './text-kit.ts'

/**
 * Byte pairs are learned from so many characters at most, drawn over the whole data piece by piece: what stands often
 * anywhere stands often there.
 */
export const learnedCharactersMax = 64 << 20

export type NewTokenizer = Exclude<NonNullable<TrainingJob['tokenizer']>, { from: string }>

export function newTokenizerOf({ tokenizer }: TrainingJob): NewTokenizer | undefined {
  return tokenizer === undefined || (typeof tokenizer === 'object' && 'from' in tokenizer)
    ? undefined
    : tokenizer
}

/** Takes texts part by part. */
export interface KitLearner {
  push(text: string): void
  endText(): void
  finish(): Steps<TextKit>
}

/** `share` of the pieces is learned from, the same ones whenever the data is the same. */
export function kitLearner(tokenizer: NewTokenizer, uses: KitUses, share: number): KitLearner {
  if (tokenizer === 'characters') return new CharacterLearner(uses)
  return new BytePairLearner(tokenizer.byte_pairs, uses, share)
}

class CharacterLearner implements KitLearner {
  readonly #uses: KitUses
  readonly #characters = new Set<string>()

  constructor(uses: KitUses) {
    this.#uses = uses
  }

  /** Every character counts, wherever it stands: one that is not known would vanish. */
  push(text: string): void {
    for (const character of text) this.#characters.add(character)
  }

  endText(): void {}

  // biome-ignore lint/correctness/useYield: there are as many characters as Unicode has, at most
  *finish(): Steps<TextKit> {
    return characterKit(this.#characters, this.#uses)
  }
}

const drawSeed = deriveSeed(0, 'what a tokenizer is learned from')

class BytePairLearner implements KitLearner {
  readonly #vocabularySize: number
  readonly #share: number
  readonly #special: readonly string[]
  readonly #words: WordCounts
  readonly #cutter: TextCutter
  #pieces = 0

  constructor(vocabularySize: number, uses: KitUses, share: number) {
    this.#vocabularySize = vocabularySize
    // It knows ChatML's tokens from the beginning, so that any model can learn to chat later.
    this.#special = specialTokensOf({ ...uses, chats: true })
    this.#words = new WordCounts(this.#special)
    this.#share = share
    this.#cutter = new TextCutter((before, behind) => {
      const alone = this.#words.wordsOf(before)
      const together = this.#words.wordsOf(before + behind)
      return alone.every((word, i) => word === together[i])
    })
  }

  push(text: string): void {
    for (const piece of this.#cutter.push(text)) this.#take(piece.text)
  }

  endText(): void {
    for (const piece of this.#cutter.end()) this.#take(piece.text)
  }

  #take(text: string): void {
    if (this.#share >= 1 || uniformAt(drawSeed, this.#pieces) < this.#share) this.#words.add(text)
    this.#pieces++
  }

  finish(): Steps<TextKit> {
    return learningByteLevelKit(this.#words, this.#vocabularySize, this.#special)
  }
}

/** The tokenizer that a job learns from its records; undefined where it brings one. */
export async function recordKitOf(
  job: TrainingJob,
  { train, ...data }: SampleData,
  preparing: Preparing,
): Promise<TextKit | undefined> {
  const tokenizer = newTokenizerOf(job)
  if (tokenizer === undefined) return undefined
  const fim = data.fim !== undefined
  const { baseFolder, context: contextMax } = job
  const files = train.map((source) => recordFiles(source, { baseFolder }))
  const learn = async () => {
    preparing.onNote('Reading the data for the tokenizer.')
    const bytes = files.flat().reduce((sum, path) => sum + textBytesOf(path), 0)
    const learner = kitLearner(tokenizer, { chats: true, fim }, learnedCharactersMax / bytes)
    for await (const text of loadTexts(train, { baseFolder, contextMax })) {
      learner.push(text)
      learner.endText()
      await preparing.pause()
    }
    // What templates write around the messages.
    learner.push('system user assistant tool User: Assistant:\n')
    learner.endText()
    return await withPauses(learner.finish(), preparing.pause)
  }
  const content = async () => {
    const sources: unknown[] = []
    for (const [i, source] of train.entries()) sources.push(await contentOf(source, files[i]!, preparing))
    return ['records', sources, tokenizer, ...(fim ? ['fim'] : [])]
  }
  return await cachedKit(job, content, learn, preparing)
}

/** Bytes of a file's text, about: texts are zipped to a third or a fourth. */
function textBytesOf(path: string): number {
  const { size } = statSync(path)
  return /\.gz$/i.test(path) ? 4 * size : size
}

/** The tokenizer of this content, from the cache where it was learned before. */
export async function cachedKit(
  { cacheFolder }: TrainingJob,
  content: () => Promise<unknown>,
  learn: () => Promise<TextKit>,
  preparing: Preparing,
): Promise<TextKit> {
  if (cacheFolder === undefined) return await learn()
  return await cachedStore({
    root: join(cacheFolder, 'tokenizers'),
    key: createHash('sha256')
      .update(JSON.stringify([1, await content()]))
      .digest('hex')
      .slice(0, 40),
    what: 'tokenizer files',
    make: async (folder) => {
      const { files, hash } = await learn()
      writeFileAtomic(join(folder, kitName), JSON.stringify({ files, hash }))
    },
    open: (folder) => {
      const { files, hash } = JSON.parse(readFileSync(join(folder, kitName), 'utf8')) as TextKit
      const kit = textKit(files)
      assert(kit.hash === hash, 'a tokenizer in the cache is as it was written')
      return kit
    },
    preparing,
  })
}

const kitName = 'kit.json'
