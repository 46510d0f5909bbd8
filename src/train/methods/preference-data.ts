/** Everything about a job that is data, for jobs that learn from preferences or verdicts. */
import { createHash } from 'node:crypto'
import { UserError } from '../../base/errors.ts'
import { deriveSeed, uniformAt } from '../../base/random.ts'
import { loadPreferencePairs, loadRatedSamples } from '../data/load.ts'
import type { Material } from '../data/material.ts'
import type { Preparing } from '../data/preparing.ts'
import { problemCount, refuseUnusable } from '../data/refusals.ts'
import { placeOf } from '../data/sample.ts'
import { cachedSamples, type SampleReader } from '../data/sample-cache.ts'
import type { SampleData } from '../data/sample-data.ts'
import { concatenated, type SampleList, sidesByDraw } from '../data/sample-list.ts'
import type { SampleStore, StoreReport } from '../data/sample-store.ts'
import type { TrainingJob } from '../job.ts'
import { cacheOptions, givenKit, type JobData } from '../job-data.ts'
import { checkTemplate, type TextKit, textKitFrom, withTemplate } from '../text-kit.ts'
import { PairBatches } from './pair-batches.ts'
import { answersOf, chosenPairs, othersOf, type PairList, pairsOf, ratingsOf } from './pair-list.ts'
import type { PreferenceMethod } from './preference.ts'

export interface PreferenceData extends JobData {
  training: PairBatches
  validation: PairBatches | undefined
}

/** Chosen, rejected, chosen, ... */
const pairReader: SampleReader = {
  kind: 'unequal pairs',
  read: async function* (source, { tokenizer, template }, options) {
    for await (const { chosen, rejected } of loadPreferencePairs([source], tokenizer, template, options)) {
      yield chosen
      yield rejected
    }
  },
}

/** Answers; the weights of bad ones are negative. */
const ratingReader: SampleReader = {
  kind: 'ratings',
  read: async function* (source, { tokenizer, template }, options) {
    for await (const { sample, desirable } of loadRatedSamples([source], tokenizer, template, options))
      yield desirable ? sample : { ...sample, weights: sample.weights.map((weight) => -weight) }
  },
}

/**
 * `earlier` is the folder of the checkpoint that a run goes on from. Without `refuses`, what cannot be learned from
 * is left out and stands in the reports.
 */
export async function preparePreferences(
  job: TrainingJob,
  method: PreferenceMethod,
  earlier: string | undefined,
  preparing: Preparing,
  refuses = true,
): Promise<PreferenceData> {
  const { data } = job
  if (!('train' in data) || !('from' in job.model)) {
    throw new UserError(`The method ${method.kind} needs model: {from: FOLDER} and data: {train: FILES}.`, {
      failure: 'usage',
    })
  }
  const kit = earlier === undefined ? withTemplate(givenKit(job), data.template) : textKitFrom(earlier)
  checkTemplate(kit)
  const { onNote } = preparing
  onNote('Reading the preferences.')
  const answers = await readAnswers(job, data, method, kit, preparing)
  try {
    const { reports } = answers
    if (refuses) refuseUnusable(reports, data, kit)
    const skipped = problemCount(reports)
    for (const text of new Set(reports.flatMap(({ notes }) => notes))) onNote(text)
    if (skipped > 0) onNote(`${skipped} records are left out; the first because ${firstOf(reports)}.`)
    const sides = sidesOf(answers, job, data, method)
    if (sides.training.pairs.length === 0) {
      refuseUnusable(reports, data, kit)
      throw new UserError('The field data.train has no pair to learn from.', { fix: 'Give it more records.' })
    }
    return preferenceData(job, method, kit, answers, sides)
  } catch (error) {
    answers[Symbol.dispose]()
    throw error
  }
}

interface Answers extends Disposable {
  training: readonly SampleStore[]
  /** Undefined where a share of the others is held out. */
  validation: readonly SampleStore[] | undefined
  reports: readonly StoreReport[]
}

async function readAnswers(
  job: TrainingJob,
  data: SampleData,
  { kind }: PreferenceMethod,
  kit: TextKit,
  preparing: Preparing,
): Promise<Answers> {
  const stores: SampleStore[] = []
  const dispose = () => {
    for (const store of stores) store[Symbol.dispose]()
  }
  const options = { ...cacheOptions(job, data, kit, preparing), contextMax: answerTokensMax(job) }
  const reader = kind === 'kto' ? ratingReader : pairReader
  const read = async (sources: SampleData['train'], field: string) => {
    const first = stores.length
    for (const source of sources) stores.push(await cachedSamples(source, kit, { ...options, field }, reader))
    return stores.slice(first)
  }
  try {
    const training = await read(data.train, 'data.train')
    const validation =
      typeof data.validation === 'number' ? undefined : await read(data.validation, 'data.validation')
    const reports = stores.map(({ report }) => report)
    return { training, validation, reports, [Symbol.dispose]: dispose }
  } catch (error) {
    dispose()
    throw error
  }
}

/** The row holds both answers, so each may have half of it. */
function answerTokensMax({ context }: TrainingJob): number {
  return Math.floor(context / 2)
}

interface Sides {
  training: Side
  validation: Side
  /** What of the pairs does not follow from the data alone: runs that began with others do not go on with these. */
  pairing: string
}

interface Side {
  pairs: PairList
  /** As they can be counted and looked at. */
  answers: Material['training']
}

function sidesOf(
  { training, validation }: Answers,
  job: TrainingJob,
  data: SampleData,
  method: PreferenceMethod,
): Sides {
  const perPair = method.kind === 'kto' ? 1 : 2
  const listOf = (answers: SampleList, field: string) =>
    perPair === 1
      ? ratedPairs(answers, answerTokensMax(job), field)
      : { pairs: pairsOf(answers), pairing: '' }
  const side = (answers: SampleList, { pairs }: { pairs: PairList }, numbers: Int32Array): Side => ({
    pairs: chosenPairs(pairs, numbers),
    answers: answersOf(answers, numbers, perPair),
  })
  const all = ({ length }: SampleList) => Int32Array.from({ length: length / perPair }, (_, number) => number)
  const answers = concatenated(training)
  const list = listOf(answers, 'data.train')
  const { pairing } = list
  if (validation !== undefined) {
    const held = concatenated(validation)
    return {
      training: side(answers, list, all(answers)),
      validation: side(held, listOf(held, 'data.validation'), all(held)),
      pairing,
    }
  }
  const share = typeof data.validation === 'number' ? data.validation : 0
  const { held, left } =
    share === 0
      ? { held: new Int32Array(0), left: all(answers) }
      : sidesByDraw(drawsByPrompt(answers, perPair, job.seed), share)
  return { training: side(answers, list, left), validation: side(answers, list, held), pairing }
}

/** Each answer with one to another prompt. `pairing` says which, where it is not the next one. */
function ratedPairs(
  answers: SampleList,
  tokensMax: number,
  field: string,
): { pairs: PairList; pairing: string } {
  const others = othersOf(answers)
  if (others.includes(-1)) {
    throw new UserError(
      `The answers in ${field} all have the same prompt, and KTO measures by answers to other prompts.`,
      { fix: 'Give it answers to several prompts.' },
    )
  }
  const isPlain = others.every((other, index) => other === (index + 1) % others.length)
  return { pairs: ratingsOf(answers, others, tokensMax), pairing: isPlain ? '' : 'other prompts' }
}

/** A draw of each pair that hangs on its prompt: what was learned about one is never asked again on the other side. */
function drawsByPrompt(answers: SampleList, perPair: 1 | 2, seed: number): Float64Array {
  const draw = deriveSeed(seed, 'held-out pairs')
  return Float64Array.from({ length: answers.length / perPair }, (_, number) => {
    const first = number * perPair
    return uniformAt(draw, answers.promptHashOf(first) || answers.hashOf(first))
  })
}

function preferenceData(
  job: TrainingJob,
  { kind }: PreferenceMethod,
  kit: TextKit,
  answers: Answers,
  { training, validation, pairing }: Sides,
): PreferenceData {
  const batches = ({ pairs }: Side, name: string) =>
    new PairBatches(pairs, job.batch, job.context, deriveSeed(job.seed, name))
  const trainingTokens = tokensOf(training.pairs)
  const passTokens = training.pairs.length * job.context
  const pairCount = training.pairs.length + validation.pairs.length
  const hash = createHash('sha256')
  for (const store of answers.training) hash.update(store.hash)
  hash.update(pairing)
  return {
    kit,
    training: batches(training, 'training batches'),
    validation: validation.pairs.length === 0 ? undefined : batches(validation, 'validation batches'),
    packed: true,
    hash: hash.digest('hex'),
    index: { bytes: indexBytesOf(answers, pairCount), laterBytes: 4 * training.pairs.length },
    summary: { trainingTokens, validationTokens: tokensOf(validation.pairs) },
    material: {
      kind: kind === 'kto' ? 'ratings' : 'pairs',
      training: training.answers,
      validation: validation.answers,
      reports: answers.reports,
      fillRate: trainingTokens / passTokens,
      passTokens,
    },
    [Symbol.dispose]: () => answers[Symbol.dispose](),
  }
}

/** Of the stores, and for each pair its number, its answers' numbers (or its own and the other's) and two references. */
function indexBytesOf({ training, validation = [] }: Answers, pairs: number): number {
  const stores = [...training, ...validation].reduce((sum, { indexBytes }) => sum + indexBytes, 0)
  return stores + pairs * (4 + 4 * 2 + 8)
}

function firstOf(reports: readonly StoreReport[]): string {
  const [first] = reports.flatMap(({ problems }) => problems)
  return first === undefined ? 'of a problem' : `${placeOf(first.source)}: ${first.what}`
}

function tokensOf(pairs: PairList): number {
  let sum = 0
  for (let number = 0; number < pairs.length; number++) sum += pairs.tokensOf(number)
  return sum
}
