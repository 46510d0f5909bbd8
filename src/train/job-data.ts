/** Everything about a job that is data: tokenizer and template, batches to learn from, batches that are held out. */
import { createHash } from 'node:crypto'
import { UserError } from '../base/errors.ts'
import { deriveSeed } from '../base/random.ts'
import { openModel } from '../models/open.ts'
import type { BatchSource } from './batch.ts'
import { GapMaker } from './data/gap-maker.ts'
import type { Material } from './data/material.ts'
import type { Preparing } from './data/preparing.ts'
import { problemCount, refuseUnusable } from './data/refusals.ts'
import { type CacheOptions, cachedSamples } from './data/sample-cache.ts'
import type { SampleData } from './data/sample-data.ts'
import { concatenated, type SampleList, splitSamples } from './data/sample-list.ts'
import type { SampleStore, StoreReport } from './data/sample-store.ts'
import type { TrainingJob } from './job.ts'
import { recordKitOf } from './new-kit.ts'
import { MixedDocuments, PackedDocuments } from './packing.ts'
import { dividedTexts, type TextData, textBatches, textKitOf, tokenisedTexts } from './text-data.ts'
import { checkTemplate, type TextKit, textKitFrom, withTemplate } from './text-kit.ts'

/** What is told of data when a job starts. */
export interface DataSummary {
  trainingTokens: number
  validationTokens: number
  /** Of a job that learns from answers of its own: what is asked. */
  prompts?: number
  /** Of a job that learns from records. */
  samples?: {
    training: number
    validation: number
    /** Share of the training tokens that are learned. */
    trainedShare: number
    /** Share of the rows' places that hold tokens. */
    fillRate: number
    cut: number
    skipped: number
  }
}

export interface JobData extends Disposable {
  kit: TextKit
  training: BatchSource
  validation: BatchSource | undefined
  /** Rows hold several documents. */
  packed: boolean
  /** Targets that count in one batch, at most; undefined where all may. */
  supervisedMax?: number
  /** SHA-256 of what is learned. */
  hash: string
  /** Memory of the index over the data; `laterBytes` of it are taken when the first batch is made. */
  index: { bytes: number; laterBytes: number }
  summary: DataSummary
  /** The same samples, to be counted and looked at. */
  material: Material
}

/**
 * `earlier` is the folder of the checkpoint that a run goes on from. Without `refuses`, what cannot be learned from
 * is left out and stands in the reports.
 */
export async function prepareData(
  job: TrainingJob,
  earlier: string | undefined,
  preparing: Preparing,
  refuses = true,
): Promise<JobData> {
  return 'text' in job.data
    ? await textJobData(job, job.data, earlier, preparing)
    : await sampleJobData(job, job.data, earlier, preparing, refuses)
}

async function textJobData(
  job: TrainingJob,
  data: TextData,
  earlier: string | undefined,
  preparing: Preparing,
): Promise<JobData> {
  preparing.onNote('Reading the texts.')
  const texts = dividedTexts(job, data, preparing)
  const kit =
    earlier === undefined ? ((await textKitOf(job, texts, preparing)) ?? givenKit(job)) : textKitFrom(earlier)
  const store = await tokenisedTexts(job, texts, kit, preparing)
  try {
    const batches = textBatches(job, data, store, texts.paths, seedsOf(job))
    const rows = [batches.training, batches.validation].filter((one) => one instanceof MixedDocuments)
    return {
      kit,
      ...batches,
      packed: data.rows === 'documents',
      hash: store.hash,
      index: indexOf(0, rows),
      summary: {
        trainingTokens: store.rows.training.length,
        validationTokens: store.rows.validation.length,
      },
      [Symbol.dispose]: () => store[Symbol.dispose](),
    }
  } catch (error) {
    store[Symbol.dispose]()
    throw error
  }
}

/** A row's draw must not depend on what else is drawn from the job's seed. */
function seedsOf({ seed }: TrainingJob): { training: number; validation: number } {
  return {
    training: deriveSeed(seed, 'training batches'),
    validation: deriveSeed(seed, 'validation batches'),
  }
}

/** What lies in memory of stores and of the rows that are made of them. */
function indexOf(storeBytes: number, rows: readonly MixedDocuments[]): JobData['index'] {
  const laterBytes = rows.reduce((sum, { orderBytes }) => sum + orderBytes, 0)
  return { bytes: storeBytes + rows.reduce((sum, { indexBytes }) => sum + indexBytes, 0), laterBytes }
}

/** Samples of a job before they are packed. */
export interface JobSamples extends Disposable {
  kit: TextKit
  indexBytes: number
  /** One list for each source; the weights are theirs. */
  training: { samples: SampleList; weight: number | undefined }[]
  validation: SampleList
  /** Of all sources, the training ones first. */
  reports: StoreReport[]
  hash: string
}

/** Reads, renders and tokenises a job's records, or finds them in the cache. */
export async function prepareSamples(
  job: TrainingJob,
  data: SampleData,
  earlier: string | undefined,
  preparing: Preparing,
): Promise<JobSamples> {
  const kit = earlier === undefined ? await sampleKit(job, data, preparing) : textKitFrom(earlier)
  checkTemplate(kit)
  const stores: SampleStore[] = []
  const disposeAll = () => {
    for (const store of stores) store[Symbol.dispose]()
  }
  try {
    const options = cacheOptions(job, data, kit, preparing)
    const load = async (sources: SampleData['train'], field: string) => {
      for (const source of sources) stores.push(await cachedSamples(source, kit, { ...options, field }))
    }
    preparing.onNote('Reading the data.')
    await load(data.train, 'data.train')
    const training = stores.slice()
    if (typeof data.validation !== 'number') await load(data.validation, 'data.validation')
    const hash = createHash('sha256')
    for (const store of training) hash.update(store.hash)
    return {
      kit,
      ...partsOf(training, stores.slice(training.length), job, data),
      // A number for each sample says on which side it is.
      indexBytes: stores.reduce((sum, { indexBytes, length }) => sum + indexBytes + 4 * length, 0),
      reports: stores.map(({ report }) => report),
      hash: hash.digest('hex'),
      [Symbol.dispose]: disposeAll,
    }
  } catch (error) {
    disposeAll()
    throw error
  }
}

function partsOf(
  training: readonly SampleStore[],
  validation: readonly SampleStore[],
  job: TrainingJob,
  data: SampleData,
): Pick<JobSamples, 'training' | 'validation'> {
  const share = typeof data.validation === 'number' ? data.validation : 0
  const isWeighted = data.train.some(({ weight }) => weight !== undefined)
  const pools = isWeighted ? training : [concatenated(training)]
  const split = pools.map((pool) => splitSamples(pool, share, job.seed))
  return {
    training: split.map((part, index) => ({
      samples: part.training,
      weight: isWeighted ? (data.train[index]!.weight ?? 1) : undefined,
    })),
    validation: concatenated([...split.map((part) => part.validation), ...validation]),
  }
}

export function cacheOptions(
  job: TrainingJob,
  data: SampleData,
  kit: TextKit,
  preparing: Preparing,
): CacheOptions {
  return {
    baseFolder: job.baseFolder,
    contextMax: job.context,
    tooLong: data.tooLong,
    trainEndOfTurn: data.trainEndOfTurn,
    vocabularySize: vocabularySizeOf(job, kit),
    cacheFolder: job.cacheFolder,
    gaps:
      data.fim &&
      new GapMaker(kit.tokenizer, data.fim, { context: job.context, seed: job.seed, beginsTexts: true }),
    preparing,
  }
}

/** Rows of the embedding that the job trains. */
export function vocabularySizeOf(job: TrainingJob, kit: TextKit): number {
  if (!('from' in job.model)) return kit.tokenizer.vocabularySize
  using model = openModel(job.model.from)
  return model.definition.config.vocabularySize
}

async function sampleJobData(
  job: TrainingJob,
  data: SampleData,
  earlier: string | undefined,
  preparing: Preparing,
  refuses: boolean,
): Promise<JobData> {
  const samples = await prepareSamples(job, data, earlier, preparing)
  try {
    const { kit, training, validation, reports, hash } = samples
    if (refuses) refuseUnusable(reports, data, kit)
    for (const text of new Set(reports.flatMap((report) => report.notes))) preparing.onNote(text)
    const seeds = seedsOf(job)
    const filled = training.filter((part) => part.samples.length > 0)
    if (filled.length < training.length) {
      refuseUnusable(reports, data, kit)
      throw nothingLeft()
    }
    const batches = new MixedDocuments(
      training.map(({ samples: documents, weight }) => ({ documents, weight: weight ?? 1 })),
      job.batch,
      job.context,
      seeds.training,
    )
    const held =
      validation.length === 0
        ? undefined
        : new PackedDocuments(validation, job.batch, job.context, seeds.validation)
    const trained = (part: number, document: number) => training[part]!.samples.trainedOf(document)
    return {
      kit,
      training: batches,
      validation: held,
      packed: true,
      supervisedMax: Math.max(
        batches.supervisedMax(trained),
        held?.supervisedMax((_, document) => validation.trainedOf(document)) ?? 0,
      ),
      hash,
      index: indexOf(samples.indexBytes, [batches, ...(held === undefined ? [] : [held])]),
      summary: summaryOf(samples, batches.fillRate),
      material: sampleMaterial(samples, batches, job.context),
      [Symbol.dispose]: () => samples[Symbol.dispose](),
    }
  } catch (error) {
    samples[Symbol.dispose]()
    throw error
  }
}

function sampleMaterial(samples: JobSamples, batches: MixedDocuments, context: number): Material {
  const { training, validation, reports } = samples
  return {
    kind: 'samples',
    training: concatenated(training.map((part) => part.samples)),
    validation,
    reports,
    fillRate: batches.fillRate,
    passTokens: batches.rows * context,
  }
}

function nothingLeft(): UserError {
  return new UserError('A source in the field data.train has no sample to learn from.', {
    fix: 'Give it more records, or hold fewer out (data.validation).',
  })
}

function summaryOf({ training, validation, reports }: JobSamples, fillRate: number): DataSummary {
  const lists = training.map(({ samples }) => samples)
  const tokens = sumOf(lists, (list, i) => list.lengthOf(i))
  const trained = sumOf(lists, (list, i) => list.trainedOf(i))
  return {
    trainingTokens: tokens,
    validationTokens: sumOf([validation], (list, i) => list.lengthOf(i)),
    samples: {
      training: lists.reduce((sum, { length }) => sum + length, 0),
      validation: validation.length,
      trainedShare: trained / tokens,
      fillRate,
      cut: reports.reduce((sum, report) => sum + report.cutSamples, 0),
      skipped: problemCount(reports),
    },
  }
}

function sumOf(lists: readonly SampleList[], of: (list: SampleList, index: number) => number): number {
  let sum = 0
  for (const list of lists) for (let i = 0; i < list.length; i++) sum += of(list, i)
  return sum
}

/** The model's kit, or a new one, with the template that the data asks for; new models speak ChatML. */
async function sampleKit(job: TrainingJob, data: SampleData, preparing: Preparing): Promise<TextKit> {
  const learned = await recordKitOf(job, data, preparing)
  return withTemplate(learned ?? givenKit(job), data.template ?? (learned && 'chatml'))
}

/** The kit of the tokenizer that the job names, or else of its model. */
export function givenKit({ tokenizer, model, baseFolder }: TrainingJob): TextKit {
  const named = typeof tokenizer === 'object' && 'from' in tokenizer ? tokenizer.from : undefined
  return textKitFrom(named ?? ('from' in model ? model.from : baseFolder))
}
