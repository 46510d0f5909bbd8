/** A job that continues texts: their tokens are made once, lie on disk, and are read row by row. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { withPauses } from '../base/pauses.ts'
import { GapMaker } from './data/gap-maker.ts'
import type { Material } from './data/material.ts'
import { PieceEncoder } from './data/piece-encoder.ts'
import type { Preparing } from './data/preparing.ts'
import type { SampleList } from './data/sample-list.ts'
import { cachedStore } from './data/store-cache.ts'
import { DividedTexts, textFiles } from './data/text-files.ts'
import { type Side, sides, TokenStore, TokenWriter } from './data/token-store.ts'
import type { TrainingJob } from './job.ts'
import { cachedKit, kitLearner, learnedCharactersMax, newTokenizerOf } from './new-kit.ts'
import { PackedDocuments } from './packing.ts'
import type { TextKit } from './text-kit.ts'
import { RandomWindows } from './windows.ts'

export type TextData = Extract<TrainingJob['data'], { text: unknown }>

/** Tokens of a job's texts. */
export interface JobTexts extends Disposable {
  paths: readonly string[]
  store: TokenStore
}

/** The texts of a job, not read yet. */
export function dividedTexts(job: TrainingJob, data: TextData, { pause }: Preparing): DividedTexts {
  return new DividedTexts(textFiles(data.text, job.baseFolder), data.validation, pause)
}

/** The tokenizer that the job learns from its texts; undefined where it brings one. */
export async function textKitOf(
  job: TrainingJob,
  texts: DividedTexts,
  preparing: Preparing,
): Promise<TextKit | undefined> {
  const tokenizer = newTokenizerOf(job)
  const fim = job.data.fim !== undefined
  if (tokenizer === undefined) return undefined
  const learn = async () => {
    preparing.onNote(
      tokenizer === 'characters'
        ? 'Collecting the characters.'
        : `Learning a tokenizer of ${tokenizer.byte_pairs} pieces.`,
    )
    const learner = kitLearner(
      tokenizer,
      { chats: false, fim },
      learnedCharactersMax / (await texts.trainingUnits()),
    )
    for await (const { text } of texts.parts('training')) {
      for await (const part of text) learner.push(part)
      learner.endText()
    }
    return await withPauses(learner.finish(), preparing.pause)
  }
  const content = async () => [
    'texts',
    await texts.digests(),
    texts.share,
    tokenizer,
    ...(fim ? ['fim'] : []),
  ]
  return await cachedKit(job, content, learn, preparing)
}

/** The tokens of the texts, from the cache or made now. */
export async function tokenisedTexts(
  job: TrainingJob,
  texts: DividedTexts,
  kit: TextKit,
  preparing: Preparing,
): Promise<TokenStore> {
  const { cacheFolder, context, seed, data } = job
  const gaps = data.fim && new GapMaker(kit.tokenizer, data.fim, { context, seed, beginsTexts: false })
  const key = async () => {
    const content = JSON.stringify([1, await texts.digests(), texts.share, kit.hash, ...(gaps?.key ?? [])])
    return createHash('sha256').update(content).digest('hex').slice(0, 40)
  }
  return await cachedStore({
    root: cacheFolder === undefined ? undefined : join(cacheFolder, 'texts'),
    key: cacheFolder === undefined ? '' : await key(),
    what: 'tokens',
    make: (folder) => tokenise(folder, texts, kit, gaps, preparing),
    open: (folder) => TokenStore.open(folder, preparing.pause),
    preparing,
  })
}

async function tokenise(
  folder: string,
  texts: DividedTexts,
  { tokenizer }: TextKit,
  gaps: GapMaker | undefined,
  { onNote }: Preparing,
): Promise<void> {
  onNote('Making tokens of the texts.')
  using writer = new TokenWriter(folder, tokenizer.vocabularySize)
  // Every text ends with the end-of-text token where the tokenizer has one.
  const end = Int32Array.from(tokenizer.eosTokens.slice(0, 1))
  let documents = 0
  for (const side of sides) {
    for await (const { file, text } of texts.parts(side)) {
      const encoder = new PieceEncoder(tokenizer, undefined, gaps?.reading)
      const document = gaps?.document(documents++)
      const whole = (fragments: Iterable<Int32Array>) => {
        for (const tokens of fragments) {
          writer.add(side, tokens)
          writer.endDocument(side, file)
        }
      }
      const take = (tokens: Int32Array) => {
        if (document === undefined) writer.add(side, tokens)
        else whole(document.push(tokens))
      }
      for await (const part of text) for (const tokens of encoder.push(part)) take(tokens)
      for (const tokens of encoder.end()) take(tokens)
      if (document !== undefined) whole(document.end())
      else {
        writer.add(side, end)
        writer.endDocument(side, file)
      }
    }
  }
  writer.finish()
}

/** Rows to learn from and what they are made of. */
export function textBatches(
  job: TrainingJob,
  data: TextData,
  store: TokenStore,
  paths: readonly string[],
  seeds: Readonly<Record<Side, number>>,
) {
  const { batch, context } = job
  const lists = { training: listOf(store, 'training', paths), validation: listOf(store, 'validation', paths) }
  const packed = (side: Side) => new PackedDocuments(lists[side], batch, context, seeds[side])
  const windows = (side: Side) => new RandomWindows(store.rows[side], batch, context, seeds[side])
  const heldOutWindows = () => {
    const { length } = store.rows.validation
    if (length <= context) throw heldOutTooShort(length, context)
    return windows('validation')
  }
  const isHeldOut = store.documents.validation.length > 0
  const rest = (
    training: { fillRate: number; rows: number } | undefined,
  ): Omit<Material, 'training' | 'validation'> => ({
    kind: 'texts',
    reports: [],
    fillRate: training?.fillRate ?? 1,
    passTokens: training === undefined ? store.rows.training.length : training.rows * context,
  })
  if (data.rows === 'windows')
    return {
      training: windows('training'),
      validation: isHeldOut ? heldOutWindows() : undefined,
      material: { ...lists, ...rest(undefined) },
    }
  const training = packed('training')
  return {
    training,
    validation: isHeldOut ? packed('validation') : undefined,
    material: { ...lists, ...rest(training) },
  }
}

function heldOutTooShort(tokens: number, context: number): UserError {
  return new UserError(
    `The held-out part of the text has ${tokens} tokens, and one row alone takes ${context} and its target.`,
    {
      failure: 'usage',
      fix: 'Give a larger data.validation, or 0 to hold nothing out; or a shorter context.',
    },
  )
}

/** The documents of one side as samples of which everything is learned. */
function listOf(store: TokenStore, side: Side, paths: readonly string[]): SampleList {
  const documents = store.documents[side]
  const row = store.rows[side]
  const sourceOf = (index: number) => ({ file: paths[documents[index]!.file]!, line: 1 })
  return {
    length: documents.length,
    lengthOf: (index) => documents[index]!.tokens,
    trainedOf: (index) => Math.max(0, documents[index]!.tokens - 1),
    hashOf: (index) => documents[index]!.hash,
    promptHashOf: () => 0,
    sourceOf,
    part: (index, start, end) => {
      const first = documents[index]!.start
      const tokens = row.subarray(first + start, first + end)
      return { tokens, weights: new Float32Array(tokens.length).fill(1), source: sourceOf(index) }
    },
  }
}
