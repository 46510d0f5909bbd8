/** The field `data` of a job that learns from records: chats, prompts with completions, texts. */
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { formats } from './examples.ts'
import { type Fim, fimFields } from './gap-maker.ts'
import type { DataSource } from './load.ts'
import { shareMin } from './mixture.ts'
import { layouts, type ReadOptions } from './records.ts'

const readFields = {
  format: z.enum(formats).optional(),
  layout: z.enum(layouts).optional(),
  columns: z.record(z.string(), z.union([z.string().min(1), z.int().min(1)])).optional(),
  header: z.boolean().optional(),
  quotes: z.boolean().optional(),
}

const entryFields = { match: z.string().optional(), weight: z.number().positive().optional(), ...readFields }

const pathExpected = 'expected a path, {path: FILE} or {package: NAME}, or a list of these'
const entry = z.union(
  [
    z.string().min(1),
    z.strictObject({ path: z.string().min(1), ...entryFields }),
    z.strictObject({ package: z.string().min(1), folder: z.string().default('.'), ...entryFields }),
  ],
  pathExpected,
)

const entries = z.union([entry, z.array(entry).min(1)], pathExpected)

/** What stands in the file. Fields of reading beside `train` hold for all entries that do not say otherwise. */
export const sampleFields = z.strictObject({
  train: entries,
  /** A share of the training records, or records of its own. */
  validation: z
    .union([z.number().min(0).max(0.9), entries], 'expected a share up to 0.9, or a path as in train')
    .default(0.1),
  /** chatml, plain, none, or the path of a Jinja file; the model's own by default. */
  template: z.string().min(1).optional(),
  /** What happens to chats that are longer than the context. */
  too_long: z.enum(['cut', 'refuse']).default('cut'),
  /** What happens to records that cannot be learned from. */
  unusable: z.enum(['refuse', 'skip']).default('refuse'),
  train_end_of_turn: z.boolean().default(true),
  /** Texts teach to fill in what stands between two others. */
  fim: fimFields.optional(),
  ...readFields,
})

export interface WeightedSource extends DataSource {
  /** Its share of the rows, among the weights of all; sources without weights are pooled. */
  weight?: number | undefined
}

/** The field with defaults filled in and paths absolute where they name single files. */
export interface SampleData {
  train: WeightedSource[]
  validation: number | WeightedSource[]
  template: string | undefined
  tooLong: 'cut' | 'refuse'
  unusable: 'refuse' | 'skip'
  trainEndOfTurn: boolean
  fim?: Fim
}

export function sampleData(fields: z.output<typeof sampleFields>, at: (path: string) => string): SampleData {
  const { train, validation, template, too_long, unusable, train_end_of_turn, fim, ...read } = fields
  const sources = sourcesOf(train, read)
  checkWeights(sources)
  return {
    train: sources,
    validation: typeof validation === 'number' ? validation : sourcesOf(validation, read),
    template:
      template === undefined || ['chatml', 'plain', 'none'].includes(template) ? template : at(template),
    tooLong: too_long,
    unusable,
    trainEndOfTurn: train_end_of_turn,
    ...(fim !== undefined && { fim }),
  }
}

type Read = ReadOptions & Pick<DataSource, 'format'>

function sourcesOf(given: z.output<typeof entries>, shared: Read): WeightedSource[] {
  return [given].flat().map((one) => {
    if (typeof one === 'string') return { files: { path: one }, ...shared }
    const { match, weight, format, layout, columns, header, quotes, ...place } = one
    const own = { format, layout, columns, header, quotes }
    const said = Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined))
    return {
      files: { ...place, ...(match !== undefined && { match }) },
      ...shared,
      ...said,
      ...(weight !== undefined && { weight }),
    }
  })
}

function checkWeights(sources: readonly WeightedSource[]): void {
  const total = sources.reduce((sum, { weight = 1 }) => sum + weight, 0)
  if (sources.length === 1 || sources.every(({ weight = 1 }) => weight / total >= shareMin)) return
  throw new UserError(`The field data.train gives a source less than ${shareMin * 100} % of the rows.`, {
    failure: 'usage',
    fix: 'Give it more weight, or leave it out.',
  })
}
