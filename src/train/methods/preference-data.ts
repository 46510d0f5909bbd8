/** Everything about a job that is data, for jobs that learn from preferences or verdicts. */
import { UserError } from '../../base/errors.ts'
import { deriveSeed, uniformAt } from '../../base/random.ts'
import { type LoadOptions, loadPreferencePairs, loadRatedSamples } from '../data/load.ts'
import { countProblem, countSample, emptyReport, listOf, type Material } from '../data/material.ts'
import { problemCount, refuseUnusable } from '../data/refusals.ts'
import { placeOf, type Sample } from '../data/sample.ts'
import type { SampleData } from '../data/sample-data.ts'
import type { StoreReport } from '../data/sample-store.ts'
import type { TrainingJob } from '../job.ts'
import { givenKit, type JobData, vocabularySizeOf } from '../job-data.ts'
import { checkTemplate, type TextKit, textKitFrom, withTemplate } from '../text-kit.ts'
import { hashOfPairs, type Pair, PairBatches } from './pair-batches.ts'
import type { PreferenceMethod } from './preference.ts'

export interface PreferenceData extends JobData {
  training: PairBatches
  validation: PairBatches | undefined
}

type Note = (text: string) => void

/**
 * `earlier` is the folder of the checkpoint that a run goes on from. Without `refuses`, what cannot be learned from
 * is left out and stands in the reports.
 */
export async function preparePreferences(
  job: TrainingJob,
  method: PreferenceMethod,
  earlier: string | undefined,
  onNote: Note,
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
  onNote('Reading the preferences.')
  const read = (sources: SampleData['train']) => loadPairs(job, data, sources, method, kit, onNote)
  const loaded = await read(data.train)
  const given = typeof data.validation === 'number' ? undefined : await read(data.validation)
  const reports = [loaded, ...(given === undefined ? [] : [given])].map(({ report }) => report)
  if (refuses) refuseUnusable(reports, data, kit)
  const skipped = problemCount(reports)
  if (skipped > 0) onNote(`${skipped} records are left out; the first because ${firstOf(reports)}.`)
  const share = typeof data.validation === 'number' ? data.validation : 0
  const held = (index: number) => uniformAt(deriveSeed(job.seed, 'held-out pairs'), index) < share
  const training = loaded.pairs.filter((_, index) => !held(index))
  const validation = given?.pairs ?? loaded.pairs.filter((_, index) => held(index))
  if (training.length === 0) {
    refuseUnusable(reports, data, kit)
    throw new UserError('The field data.train has no pair to learn from.', { fix: 'Give it more records.' })
  }
  const batches = (pairs: readonly Pair[], name: string) =>
    new PairBatches(pairs, job.batch, job.context, deriveSeed(job.seed, name))
  return {
    kit,
    training: batches(training, 'training batches'),
    validation: validation.length === 0 ? undefined : batches(validation, 'validation batches'),
    packed: true,
    hash: hashOfPairs(training),
    summary: { trainingTokens: tokensOf(training), validationTokens: tokensOf(validation) },
    material: pairMaterial(method, training, validation, reports, job.context),
    [Symbol.dispose]: () => undefined,
  }
}

function firstOf(reports: readonly StoreReport[]): string {
  const [first] = reports.flatMap(({ problems }) => problems)
  return first === undefined ? 'of a problem' : `${placeOf(first.source)}: ${first.what}`
}

function tokensOf(pairs: readonly Pair[]): number {
  return pairs.reduce((sum, { left, right }) => sum + left.tokens.length + right.tokens.length, 0)
}

function pairMaterial(
  { kind }: PreferenceMethod,
  training: readonly Pair[],
  validation: readonly Pair[],
  reports: readonly StoreReport[],
  context: number,
): Material {
  const answers = (pairs: readonly Pair[]) =>
    listOf(kind === 'kto' ? pairs.map(({ left }) => left) : pairs.flatMap(({ left, right }) => [left, right]))
  const passTokens = training.length * context
  return {
    kind: kind === 'kto' ? 'ratings' : 'pairs',
    training: answers(training),
    validation: answers(validation),
    reports,
    fillRate: tokensOf(training) / passTokens,
    passTokens,
  }
}

interface Loaded {
  pairs: Pair[]
  report: StoreReport
}

async function loadPairs(
  job: TrainingJob,
  data: SampleData,
  sources: SampleData['train'],
  method: PreferenceMethod,
  kit: TextKit,
  onNote: Note,
): Promise<Loaded> {
  const report: StoreReport = { ...emptyReport(), files: [] }
  const options = loadOptions(job, data, kit, report, onNote)
  const pairs = method.kind === 'kto' ? await ratedPairs(sources, kit, options) : []
  if (method.kind !== 'kto') {
    const read = loadPreferencePairs(sources, kit.tokenizer, kit.template, options)
    for await (const { chosen, rejected } of read) pairs.push({ left: chosen, right: rejected, verdict: 1 })
  }
  const endings = new Set(kit.tokenizer.eosTokens)
  for (const { left } of pairs) countSample(report, left, endings)
  return { pairs, report }
}

/** The row holds both answers, so each may have half of it. */
function loadOptions(
  job: TrainingJob,
  data: SampleData,
  kit: TextKit,
  report: StoreReport,
  onNote: Note,
): LoadOptions {
  return {
    baseFolder: job.baseFolder,
    contextMax: Math.floor(job.context / 2),
    tooLong: data.tooLong,
    trainEndOfTurn: data.trainEndOfTurn,
    vocabularySize: vocabularySizeOf(job, kit),
    field: 'data.train',
    onNote,
    onFile: (path, format) => report.files.push({ path, format }),
    onCut: () => report.cutSamples++,
    onProblem: (problem) => countProblem(report, problem),
  }
}

/** Each answer with its verdict, and behind its prompt the answer to the next prompt, as KTO's measure of distance. */
async function ratedPairs(sources: SampleData['train'], kit: TextKit, options: LoadOptions): Promise<Pair[]> {
  const rated: { sample: Sample; desirable: boolean }[] = []
  for await (const one of loadRatedSamples(sources, kit.tokenizer, kit.template, options)) rated.push(one)
  return rated.map(({ sample, desirable }, i) => {
    const other = rated[(i + 1) % rated.length]!.sample
    return { left: sample, right: crossed(sample, other, options.contextMax), verdict: desirable ? 1 : -1 }
  })
}

/** The prompt of one sample with the answer of another, cut at `tokensMax`. */
function crossed(prompt: Sample, answer: Sample, tokensMax: number): Sample {
  const [head, tail] = [promptLength(prompt), promptLength(answer)]
  const length = Math.min(tokensMax, head + answer.tokens.length - tail)
  const part = <Values extends Int32Array | Float32Array>(first: Values, second: Values) =>
    [...first.subarray(0, head), ...second.subarray(tail)].slice(0, length)
  return {
    tokens: Int32Array.from(part(prompt.tokens, answer.tokens)),
    weights: Float32Array.from(part(prompt.weights, answer.weights)),
    source: prompt.source,
  }
}

function promptLength({ weights }: Sample): number {
  const first = weights.findIndex((weight, i) => i > 0 && weight !== 0)
  return first < 0 ? weights.length : first
}
