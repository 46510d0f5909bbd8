/** What stops a job before its first step. */
import { UserError } from '../../base/errors.ts'
import type { TextKit } from '../text-kit.ts'
import type { DataProblem } from './load.ts'
import { placeOf } from './sample.ts'
import type { SampleData } from './sample-data.ts'
import type { StoreReport } from './sample-store.ts'

/** So many problems are shown at once. */
const shownMax = 5

/** Throws a UserError that shows places and how to mend them, unless the data can be learned from. */
export function refuseUnusable(reports: readonly StoreReport[], data: SampleData, kit: TextKit): void {
  const [first] = refusalsOf(reports, data, kit)
  if (first !== undefined) throw first
}

/** Why the data cannot be learned from; empty where it can. */
export function refusalsOf(
  reports: readonly StoreReport[],
  data: Pick<SampleData, 'unusable' | 'trainEndOfTurn'>,
  kit: TextKit,
): UserError[] {
  const all = reports.flatMap(({ problems }) => problems)
  const count = problemCount(reports)
  const records = data.unusable === 'refuse' && count > 0 ? [refusalOfAll(all, count)] : []
  if (reports.reduce((sum, { samples }) => sum + samples, 0) === 0) {
    const nothing = new UserError('The data has no sample to learn from.', {
      fix: 'Point data.train at files with records.',
    })
    return [...records, nothing]
  }
  const ending = neverEnding(reports, data, kit)
  return ending === undefined ? records : [...records, ending]
}

/** How many records cannot be learned from. */
export function problemCount(reports: readonly StoreReport[]): number {
  const counts = reports.flatMap(({ problemCounts }) => Object.values(problemCounts))
  return counts.reduce((sum, count) => sum + count, 0)
}

function refusalOfAll(problems: readonly DataProblem[], count: number): UserError {
  const shown = problems
    .slice(0, shownMax)
    .map(({ source, what, fix }) => `${placeOf(source)}: ${what}. ${fix}`)
  const more = count > shown.length ? [`... and ${count - shown.length} more.`] : []
  const subject = count === 1 ? 'A record cannot be learned from' : `${count} records cannot be learned from`
  return new UserError([`${subject}:`, ...shown, ...more].join('\n'), {
    fix: 'Mend them, or set data.unusable: skip to leave them out.',
  })
}

/** Answers that never end with an ending token make a model that never stops. */
export function neverEnding(
  reports: readonly StoreReport[],
  data: Pick<SampleData, 'trainEndOfTurn'>,
  { tokenizer }: TextKit,
): UserError | undefined {
  const chats = reports.filter(({ files }) => files.some(({ format }) => format !== 'text'))
  if (!data.trainEndOfTurn || chats.length === 0 || chats.some(({ endingSamples }) => endingSamples > 0))
    return undefined
  const endings = tokenizer.eosTokens.map((token) => tokenizer.textOf(token))
  const place = placeOf({ file: chats[0]!.files[0]!.path, line: 1 })
  if (chats.every(({ samples, cutSamples }) => cutSamples >= samples))
    return new UserError(
      `${place}: every sample is cut to the context, so that none has its end: the model would never learn to stop.`,
      {
        fix: 'Raise context (a pair of preferences has room for half of it in each answer), or set data.train_end_of_turn: false.',
      },
    )
  return new UserError(
    endings.length === 0
      ? `${place}: answers end without a token that says so: the tokenizer names no ending token.`
      : `${place}: no answer ends with ${endings.join(' or ')}: the model would never learn to stop.`,
    {
      fix: 'Use a chat template whose answers end with the eos_token of tokenizer_config.json, or set data.train_end_of_turn: false.',
    },
  )
}
