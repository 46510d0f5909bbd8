/**
 * Samples are made once for each content: a store's name is the hash of everything that decides what is in it
 * (the files' bytes, the tokenizer, the template, the options). It appears whole or not at all.
 */
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import { hashOfFile } from '../../base/files.ts'
import type { TextKit } from '../text-kit.ts'
import { type DataSource, type LoadOptions, loadSamples } from './load.ts'
import { countProblem, countSample, emptyReport } from './material.ts'
import { dataEndings } from './records.ts'
import { SampleStore, StoreWriter } from './sample-store.ts'
import { sourceFiles } from './source-files.ts'

/** Of all stores in the cache; the ones unused for longest are removed first. */
const cacheBytesMax = 20e9

/** A store that was begun so long ago belongs to nobody any more. */
const leftoverMs = 24 * 3600 * 1000

export interface CacheOptions extends Pick<LoadOptions, 'baseFolder' | 'contextMax' | 'field'> {
  tooLong: 'cut' | 'refuse'
  trainEndOfTurn: boolean
  vocabularySize: number
  /** Where stores are kept; without it they live as long as the process. */
  cacheFolder: string | undefined
  onNote: (text: string) => void
}

/** The samples of a source, from the cache or made now. Dispose it when done. */
export async function cachedSamples(
  source: DataSource,
  kit: TextKit,
  options: CacheOptions,
): Promise<SampleStore> {
  const { cacheFolder, onNote } = options
  if (cacheFolder === undefined) return await temporaryStore(source, kit, options)
  const root = join(cacheFolder, 'samples')
  const folder = join(root, keyOf(source, kit, options))
  if (existsSync(folder)) {
    try {
      const store = new SampleStore(folder)
      const nowSeconds = systemClock.unixMs() / 1000
      utimesSync(folder, nowSeconds, nowSeconds)
      return store
    } catch (error) {
      onNote(`The cached samples in ${folder} are damaged (${messageOf(error)}); making them again.`)
      rmSync(folder, { recursive: true, force: true })
    }
  }
  mkdirSync(root, { recursive: true })
  const making = mkdtempSync(join(root, '.making-'))
  try {
    await make(making, source, kit, options)
    // Another process may have finished the same store: theirs is as good.
    if (existsSync(folder)) rmSync(making, { recursive: true })
    else renameSync(making, folder)
  } catch (error) {
    rmSync(making, { recursive: true, force: true })
    throw error
  }
  evict(root, cacheBytesMax, folder)
  return new SampleStore(folder)
}

async function temporaryStore(source: DataSource, kit: TextKit, options: CacheOptions): Promise<SampleStore> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-samples-'))
  try {
    await make(folder, source, kit, options)
    return new SampleStore(folder)
  } finally {
    // The open file outlives its name.
    rmSync(folder, { recursive: true, force: true })
  }
}

async function make(folder: string, source: DataSource, kit: TextKit, options: CacheOptions): Promise<void> {
  using writer = new StoreWriter(folder)
  const formats = new Map<string, string>()
  const report = emptyReport()
  const endings = new Set(kit.tokenizer.eosTokens)
  const samples = loadSamples([source], kit.tokenizer, kit.template, {
    ...options,
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
  }
  writer.finish(report, formats)
}

function keyOf(source: DataSource, kit: TextKit, options: CacheOptions): string {
  const { baseFolder, contextMax, field = 'data.train', tooLong, trainEndOfTurn, vocabularySize } = options
  const choice = { field, endings: dataEndings, endingNames: 'data' }
  const files = sourceFiles(source.files, baseFolder, choice).map((path) => [path, hashOfFile(path)])
  const { format, layout, columns, header, quotes } = source
  const read = [format, layout, columns, header, quotes].map((value) => value ?? null)
  const made = [contextMax, tooLong, trainEndOfTurn, vocabularySize]
  const content = JSON.stringify([1, files, read, made, kit.hash])
  return createHash('sha256').update(content).digest('hex').slice(0, 40)
}

/** Removes stores, the ones unused for longest first, until the others have `bytesMax` at most. */
export function evict(root: string, bytesMax: number, keep: string): void {
  const oldestMs = systemClock.unixMs() - leftoverMs
  const stores = readdirSync(root).map((name) => {
    const folder = join(root, name)
    const bytes = readdirSync(folder).reduce((sum, file) => sum + statSync(join(folder, file)).size, 0)
    return { folder, bytes, usedMs: statSync(folder).mtimeMs, isBegun: name.startsWith('.') }
  })
  for (const { folder } of stores.filter((one) => one.isBegun && one.usedMs < oldestMs)) {
    rmSync(folder, { recursive: true, force: true })
  }
  const whole = stores.filter(({ isBegun }) => !isBegun).sort((a, b) => a.usedMs - b.usedMs)
  let bytes = whole.reduce((sum, store) => sum + store.bytes, 0)
  for (const store of whole) {
    if (bytes <= bytesMax) return
    if (store.folder === keep) continue
    rmSync(store.folder, { recursive: true, force: true })
    bytes -= store.bytes
  }
}
