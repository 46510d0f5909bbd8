/** What a job's data is, and what speaks against learning from it. */
import { withPauses } from '../../base/pauses.ts'
import type { DataProblem } from '../data/load.ts'
import type { Material } from '../data/material.ts'
import type { Preparing } from '../data/preparing.ts'
import { problemCount, refusalsOf } from '../data/refusals.ts'
import { placeOf } from '../data/sample.ts'
import type { TrainingJob } from '../job.ts'
import { policyOf } from '../methods/method.ts'
import type { TextKit } from '../text-kit.ts'
import { type Census, censusOf } from './census.ts'
import { type Leaks, leaksOf } from './leaks.ts'
import { type Preview, previewsOf } from './preview.ts'

export interface DataCheck {
  kind: Material['kind']
  vocabularySize: number
  training: Census
  validation: Census
  leaks: Leaks
  fillRate: number
  /** Samples that were cut to the context. */
  cut: number
  /** Records without text, those with nothing to learn, and so on, by what is wrong with them. */
  problemCounts: Record<string, number>
  /** The first of them. */
  problems: { at: string; code: DataProblem['code']; what: string; fix: string }[]
  /** How often the steps of the job go through the data. */
  passes: number
  previews: Preview[]
  /** Why the job does not start with this data; empty when it does. */
  refusals: { message: string; fix: string | undefined }[]
  /** What may be meant so, but seldom is. */
  warnings: string[]
}

const previewCount = 3
/** Tokens that one preview shows. Of texts all is learned, so a taste does. */
const previewTokens = 400
const textPreviewTokens = 60

export async function dataCheckOf(
  job: TrainingJob,
  kit: TextKit,
  material: Material,
  { pause }: Preparing,
): Promise<DataCheck> {
  const { kind, training, validation, reports, fillRate, passTokens } = material
  const problemCounts: Record<string, number> = {}
  for (const report of reports)
    for (const [code, count] of Object.entries(report.problemCounts))
      problemCounts[code] = (problemCounts[code] ?? 0) + count
  const refusals = 'train' in job.data ? refusalsOf(reports, job.data, kit) : []
  const stepTokens = job.batch * job.context * job.accumulate
  const check: DataCheck = {
    kind,
    vocabularySize: kit.tokenizer.vocabularySize,
    training: await withPauses(censusOf(training), pause),
    validation: await withPauses(censusOf(validation), pause),
    leaks: await withPauses(leaksOf(material), pause),
    fillRate,
    cut: reports.reduce((sum, { cutSamples }) => sum + cutSamples, 0),
    problemCounts,
    problems: reports.flatMap(({ problems }) => problems.map(shown)),
    passes: (job.steps * stepTokens) / Math.max(1, passTokens),
    previews:
      kind === 'texts'
        ? previewsOf(training, 1, textPreviewTokens, job.seed, kit.tokenizer)
        : previewsOf(training, previewCount, previewTokens, job.seed, kit.tokenizer),
    refusals: refusals.map(({ message, fix }) => ({ message, fix })),
    warnings: [],
  }
  return {
    ...check,
    warnings: [...scheduleWarnings(job), ...promptWarnings(job), ...warningsOf(check, problemCount(reports))],
  }
}

/** A trial of a few steps warms up for all of them rightly, so it is no reason to refuse. */
function scheduleWarnings({ steps, schedule, optimizer }: TrainingJob): string[] {
  const { warmup_steps } = schedule
  if (warmup_steps < steps) return []
  return [
    `schedule.warmup_steps is ${warmup_steps} and the run has ${steps} steps: the rate never reaches optimizer.learning_rate (${optimizer.learning_rate}).`,
  ]
}

/** Of a job that learns from answers of its own. */
function promptWarnings({ method }: TrainingJob): string[] {
  if (policyOf(method) === undefined) return []
  return ['What a step takes is that of learning alone: writing the answers, and grading them, comes on top.']
}

function shown({ source, code, what, fix }: DataProblem): DataCheck['problems'][number] {
  return { at: placeOf(source), code, what, fix }
}

/** Beyond four passes, data teaches little more (Muennighoff 2023). */
const passesMax = 4

function warningsOf(check: DataCheck, problems: number): string[] {
  const { training, leaks, cut, passes, kind, validation } = check
  const warnings: string[] = []
  const some = (count: number, what: string) => {
    if (count > 0) warnings.push(what)
  }
  some(problems, `${problems} records cannot be learned from.`)
  some(cut, `${cut} samples are cut to the context; what is behind it is lost.`)
  some(training.duplicates, `${training.duplicates} samples repeat an earlier one.`)
  some(leaks.samples, `${leaks.samples} held-out samples are learned from, too.`)
  some(
    leaks.prompts,
    `${leaks.prompts} held-out samples have a prompt that is learned from with another answer.`,
  )
  if (leaks.overlap > 0.001)
    warnings.push(`${(leaks.overlap * 100).toFixed(1)} % of the held-out text is learned from, too.`)
  if (validation.samples === 0) warnings.push('Nothing is held out: nobody will see it learn by heart.')
  if (kind === 'texts' && passes > passesMax * 1.25)
    warnings.push(
      `The steps go through the text ${passes.toFixed(1)} times; after ${passesMax} times it teaches little more.`,
    )
  return warnings
}
