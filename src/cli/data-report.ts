/** What preflight found out about a job's data, as people read it. */
import type { Derived } from '../train/dial.ts'
import type { Census } from '../train/preflight/census.ts'
import type { DataCheck } from '../train/preflight/data-check.ts'
import type { Needs } from '../train/preflight/needs.ts'
import type { Pace } from '../train/preflight/pace.ts'
import type { Preview, Stretch } from '../train/preflight/preview.ts'
import { bytes, type coloursOf, compact, duration } from './terminal.ts'

type Colours = ReturnType<typeof coloursOf>

/** Samples with what is learned in green and what is masked dim; without colours, what is learned in brackets. */
export function previewText(preview: Preview, colours: Colours): string {
  const { at, tokens, trainedTokens, stretches } = preview
  const head = `${at}: ${tokens} tokens, ${trainedTokens} of them learned`
  const body = stretches.map((stretch) => stretchText(stretch, colours)).join('')
  return `${colours?.bold(head) ?? head}\n${indented(body)}`
}

function stretchText({ text, weight }: Stretch, colours: Colours): string {
  const visible = printable(text)
  const paint = weight === 0 ? colours?.dim : colours?.green
  // A colour ends with its line, so that indenting does not run into it.
  if (paint !== undefined)
    return visible
      .split('\n')
      .map((line) => (line === '' ? '' : paint(line)))
      .join('\n')
  if (weight === 0) return visible
  return weight === 1 ? `⟦${visible}⟧` : `⟦${visible}⟧×${weight}`
}

/** A sample is data, and data must not move the cursor. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}]/gu, (character) =>
    character === '\n' || character === '\t'
      ? character
      : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}

function indented(text: string): string {
  return text
    .split('\n')
    .map((line) => `  ${line}`)
    .join('\n')
}

/** The whole report; `from` is what previews are drawn from. */
export function dataReport(check: DataCheck, colours: Colours): string {
  const share = (part: number, whole: number) => `${((100 * part) / Math.max(1, whole)).toFixed(1)} %`
  const names = {
    texts: 'texts',
    samples: 'samples',
    pairs: 'answers in pairs',
    ratings: 'rated answers',
    prompts: 'prompts',
  }
  const { training, validation } = check
  const trained = share(training.trainedTokens, training.tokens)
  const lines = [
    ...check.previews.flatMap((preview) => [previewText(preview, colours), '']),
    `learned from  ${countsOf(training, names[check.kind])}`,
    `held out      ${countsOf(validation, names[check.kind])}`,
    check.kind === 'prompts'
      ? `supervised    answers that the model writes to the prompts, which fill ${share(check.fillRate, 1)} of the rows`
      : `supervised    ${trained} of the tokens are learned, rows are ${share(check.fillRate, 1)} full`,
    `passes        the job goes through the data ${check.passes.toFixed(check.passes < 10 ? 2 : 0)} times`,
    `twice         ${training.duplicates} samples repeat an earlier one${listed(training.duplicatePlaces.map(({ at, repeats }) => `${at} repeats ${repeats}`))}`,
    `leaked        ${leakText(check)}${listed(check.leaks.places.map(({ heldOut, training: at }) => `${heldOut} is learned from at ${at}`))}`,
    `cut           ${check.cut} samples are longer than the context`,
    `unusable      ${problemsText(check)}`,
    '',
    `tokens per sample: shortest ${training.lengths.min}, middle ${training.lengths.median}, 9 of 10 up to ${training.lengths.p90}, longest ${training.lengths.max}`,
    ...histogram(training),
    '',
    ...check.warnings.map((text) => `${colours?.yellow('warning:') ?? 'warning:'} ${text}`),
    ...check.refusals.map(
      ({ message, fix }) =>
        `${colours?.red('refused:') ?? 'refused:'} ${message}${fix === undefined ? '' : `\n${fix}`}`,
    ),
  ]
  return lines.join('\n').trimEnd()
}

function countsOf({ samples, tokens }: Census, name: string): string {
  return `${compact(samples)} ${name}, ${compact(tokens)} tokens`
}

function leakText({ kind, leaks }: DataCheck): string {
  if (kind === 'texts')
    return `${(leaks.overlap * 100).toFixed(1)} % of the held-out text is learned from, too`
  return `${leaks.samples} held-out samples are learned from, too; ${leaks.prompts} more have a prompt that is`
}

function problemsText({ problemCounts, problems }: DataCheck): string {
  const counts = Object.entries(problemCounts).map(([code, count]) => `${count} ${code.replace('_', ' ')}`)
  if (counts.length === 0) return 'no record'
  return `${counts.join(', ')}${listed(problems.slice(0, 5).map(({ at, what, fix }) => `${at}: ${what}. ${fix}`))}`
}

function listed(lines: readonly string[]): string {
  return lines.map((line) => `\n                ${line}`).join('')
}

const barWidth = 40

function histogram({ lengths }: Census): string[] {
  const most = Math.max(1, ...lengths.buckets.map(({ samples }) => samples))
  return lengths.buckets.map(({ from, to, samples }) => {
    const bar = '█'.repeat(Math.max(1, Math.round((samples / most) * barWidth)))
    return `${`${from}-${to}`.padStart(14)} ${bar} ${samples}`
  })
}

/** What one dial decided, a field a line. */
export function derivedText({ dial, parameters, tokens, flops, fields }: Derived): string {
  const [name, value] = Object.entries(dial)[0]!
  return [
    `From ${name}: ${name === 'params' ? compact(value) : value} follows (give any of it yourself to change it):`,
    `  ${compact(parameters)} parameters, ${compact(tokens)} tokens to learn from, ${flops.toExponential(1)} operations`,
    ...Object.entries(fields).map(
      ([path, decided]) => `  ${path}: ${typeof decided === 'object' ? JSON.stringify(decided) : decided}`,
    ),
  ].join('\n')
}

/** What the job will take; the time only where it was measured. */
export function needsText(
  { memory, indexBytes, disk, warnings }: Needs,
  pace: Pace | undefined,
  colours: Colours,
): string {
  const parts = [
    `weights ${bytes(memory.weightBytes)}`,
    `gradients and moments ${bytes(memory.learningBytes)}`,
    `activations ${bytes(memory.activationBytes)}`,
    `a copy to save from ${bytes(memory.snapshotBytes)}`,
    `the process ${bytes(memory.processBytes)}${indexBytes > 0 ? ` (the data's index ${bytes(indexBytes)} of it)` : ''}`,
  ]
  const lines = [
    `memory        about ${bytes(memory.bytes)} at its peak: ${parts.join(', ')}`,
    `disk          about ${bytes(disk.bytes)} for checkpoints of ${bytes(disk.checkpointBytes)}; ${bytes(disk.freeBytes)} are free`,
    ...(pace === undefined
      ? []
      : [
          `time          about ${duration(pace.seconds)}: ${compact(pace.tokensPerSecond)} tokens/s, ${pace.stepSeconds.toFixed(2)} s a step, without evaluations`,
        ]),
    ...warnings.map((text) => `${colours?.yellow('warning:') ?? 'warning:'} ${text}`),
  ]
  return lines.join('\n')
}
