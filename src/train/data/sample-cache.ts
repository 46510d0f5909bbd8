/** Samples of records, made once for each content: files, tokenizer, template, options, and what is read from records. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { hashOfLargeFile } from '../../base/files.ts'
import type { TextKit } from '../text-kit.ts'
import { type DataSource, type LoadOptions, loadSamples, recordFiles } from './load.ts'
import { countProblem, countSample, emptyReport } from './material.ts'
import type { Preparing } from './preparing.ts'
import { layoutByName } from './records.ts'
import type { Sample } from './sample.ts'
import { SampleStore, StoreWriter } from './sample-store.ts'
import { cachedStore } from './store-cache.ts'

export interface CacheOptions extends Pick<LoadOptions, 'baseFolder' | 'contextMax' | 'field' | 'gaps'> {
  tooLong: 'cut' | 'refuse'
  trainEndOfTurn: boolean
  vocabularySize: number
  /** Where stores are kept; without it they live as long as the process. */
  cacheFolder: string | undefined
  preparing: Preparing
}

/** What samples are read from records. */
export interface SampleReader {
  /** In the key of the cache: the same kind reads the same. */
  kind: string
  read(source: DataSource, kit: TextKit, options: LoadOptions): AsyncIterable<Sample>
}

const everySample: SampleReader = {
  kind: 'samples',
  read: (source, { tokenizer, template }, options) => loadSamples([source], tokenizer, template, options),
}

/** The samples of a source, from the cache or made now. Dispose it when done. */
export async function cachedSamples(
  source: DataSource,
  kit: TextKit,
  options: CacheOptions,
  reader = everySample,
): Promise<SampleStore> {
  const { cacheFolder, preparing } = options
  const paths = recordFiles(source, options)
  return await cachedStore({
    root: cacheFolder === undefined ? undefined : join(cacheFolder, 'samples'),
    key: cacheFolder === undefined ? '' : await keyOf(source, paths, kit, options, reader),
    what: 'samples',
    make: (folder) => make(folder, source, paths, kit, options, reader),
    open: (folder) => SampleStore.open(folder, preparing.pause, paths),
    preparing,
  })
}

async function make(
  folder: string,
  source: DataSource,
  paths: readonly string[],
  kit: TextKit,
  options: CacheOptions,
  reader: SampleReader,
): Promise<void> {
  using writer = new StoreWriter(folder)
  const formats = new Map<string, string>()
  const report = emptyReport()
  const endings = new Set(kit.tokenizer.eosTokens)
  const samples = reader.read(source, kit, {
    ...options,
    pause: options.preparing.pause,
    onProblem: (problem) => countProblem(report, problem),
    onNote: (text) => report.notes.push(text),
    onFile: (file, format) => formats.set(file, format),
    onCut: (_, tokens) => {
      report.cutSamples++
      report.longestTokens = Math.max(report.longestTokens, tokens)
    },
  })
  for await (const sample of samples) {
    writer.add(sample)
    countSample(report, sample, endings)
    await options.preparing.pause()
  }
  writer.finish(report, formats, paths)
}

/** What of a source decides what is read from it: its files' bytes, and how they are taken. */
export async function contentOf(
  { format, layout, columns, header, quotes }: DataSource,
  paths: readonly string[],
  { pause }: Preparing,
): Promise<unknown> {
  const files: unknown[] = []
  for (const path of paths) files.push([layoutByName(path), await hashOfLargeFile(path, pause)])
  return [files, [format, layout, columns, header, quotes].map((value) => value ?? null)]
}

async function keyOf(
  source: DataSource,
  paths: readonly string[],
  kit: TextKit,
  options: CacheOptions,
  { kind }: SampleReader,
): Promise<string> {
  const { contextMax, tooLong, trainEndOfTurn, vocabularySize, gaps } = options
  const made = [contextMax, tooLong, trainEndOfTurn, vocabularySize, ...(gaps?.key ?? [])]
  const files = await contentOf(source, paths, options.preparing)
  const content = JSON.stringify([2, kind, files, made, kit.hash])
  return createHash('sha256').update(content).digest('hex').slice(0, 40)
}
