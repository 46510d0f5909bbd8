/** What is inside: the first records of a file, and numbers about all of them. */
import type { z } from 'zod'
import type { fieldStatistics, statisticsView } from '../../api/control/datasets.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { openFile } from '../blobs/content.ts'
import type { FileRow } from '../blobs/rows.ts'
import type { Datasets } from './datasets.ts'
import type { VersionRow } from './rows.ts'

export interface ReadRecord {
  /** From 1. */
  readonly line: number
  readonly value: Readonly<Record<string, unknown>>
}

/** Cuts the bytes of a file into records, as the trainer would; throws a UserError that names the line. */
export type RecordReader = (name: string, bytes: AsyncIterable<Uint8Array>) => AsyncIterable<ReadRecord>

export type Statistics = z.output<typeof statisticsView>

/** Of one dataset; what is behind is not looked at. */
export const statisticsBytesMax = 64 << 20
const fieldsMax = 200
/** A record of a preview is cut to this. */
const previewCharactersMax = 4000
const previewBytesMax = 8 << 20
const dataEndings = /\.(jsonl|ndjson|json|csv|tsv|txt|md)(\.gz)?$/i

export async function preview(
  datasets: Datasets,
  read: RecordReader,
  version: VersionRow,
  wanted: { path?: string | undefined; limit: number },
) {
  const file = chosen(await datasets.files(version), wanted.path)
  const body = await openFile(await datasets.placeOf(version, file), file, { start: 0, end: previewBytesMax })
  const records: { line: number; value: unknown }[] = []
  let problem: string | null = null
  try {
    for await (const { line, value } of read(file.path, body.bytes)) {
      records.push({ line, value: shortened(value) })
      if (records.length === wanted.limit) break
    }
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    problem = file.bytes > previewBytesMax ? 'The next record ends behind what was read.' : error.message
  }
  return { path: file.path, records, problem }
}

function chosen(files: readonly FileRow[], path: string | undefined): FileRow {
  const file = files.find((file) => (path === undefined ? dataEndings.test(file.path) : file.path === path))
  if (file !== undefined) return file
  const names = files.slice(0, 5).map((file) => file.path)
  throw new UserError(path === undefined ? 'It holds no file with records.' : `There is no file ${path}.`, {
    failure: 'not_found',
    fix: `There are: ${names.join(', ')}${files.length > 5 ? ', ...' : ''}.`,
  })
}

function shortened(value: unknown): unknown {
  if (JSON.stringify(value).length <= previewCharactersMax) return value
  if (typeof value === 'string') return `${value.slice(0, previewCharactersMax)} ...`
  if (Array.isArray(value)) return value.slice(0, 20).map(shortened)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, shortened(inner)]))
}

interface FieldSums {
  records: number
  types: Record<string, number>
  measured: number
  lengthSum: number
  lengthMax: number
}

/** Counts records and fields of all files with records, in the order of their paths, up to a number of bytes. */
export async function measure(
  datasets: Datasets,
  read: RecordReader,
  version: VersionRow,
): Promise<Statistics> {
  const fields = new Map<string, FieldSums>()
  const problems: string[] = []
  let records = 0
  let bytes = 0
  let whole = true
  for (const file of await datasets.files(version)) {
    if (!dataEndings.test(file.path)) continue
    const left = statisticsBytesMax - bytes
    if (left < file.bytes) whole = false
    if (left <= 0) break
    const body = await openFile(await datasets.placeOf(version, file), file, { start: 0, end: left })
    bytes += Math.min(left, file.bytes)
    try {
      for await (const { value } of read(file.path, body.bytes)) {
        records++
        for (const [name, field] of Object.entries(value)) add(fields, name, field)
      }
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      // The last record of a file that was cut is cut too.
      if (left >= file.bytes) problems.push(error.message)
    }
  }
  return { records, bytes, whole, problems, fields: [...fields].map(([name, sums]) => fieldOf(name, sums)) }
}

function add(fields: Map<string, FieldSums>, name: string, value: unknown): void {
  let sums = fields.get(name)
  if (sums === undefined) {
    if (fields.size >= fieldsMax) return
    sums = { records: 0, types: {}, measured: 0, lengthSum: 0, lengthMax: 0 }
    fields.set(name, sums)
  }
  const type = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value
  sums.records++
  sums.types[type] = (sums.types[type] ?? 0) + 1
  if (typeof value !== 'string' && !Array.isArray(value)) return
  sums.measured++
  sums.lengthSum += value.length
  sums.lengthMax = Math.max(sums.lengthMax, value.length)
}

function fieldOf(name: string, sums: FieldSums): z.output<typeof fieldStatistics> {
  const { records, types, measured, lengthSum, lengthMax } = sums
  const isMeasured = measured > 0
  return {
    ...{ name, records, types },
    length_mean: isMeasured ? lengthSum / measured : null,
    length_max: isMeasured ? lengthMax : null,
  }
}

/** The statistics of a version: counted once, then kept, since the version never changes. */
export async function statisticsOf(
  datasets: Datasets,
  read: RecordReader,
  version: VersionRow,
): Promise<Statistics> {
  if (version.statistics_json !== null) return version.statistics_json as Statistics
  try {
    const counted = await measure(datasets, read, version)
    await datasets.keepStatistics(version, counted)
    return counted
  } catch (error) {
    if (error instanceof UserError) throw error
    throw new UserError(`The statistics could not be counted: ${messageOf(error)}`, { cause: error })
  }
}
