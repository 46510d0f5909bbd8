/**
 * Checkpoints as folders of this machine, for what serves them: made once of content in the object store, checked,
 * under a name that follows from the content, and read by any number of replicas. Linked folders are read in place.
 */
import { existsSync, mkdirSync, statSync, utimesSync } from 'node:fs'
import { readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, UserError } from '../../base/errors.ts'
import type { Logger } from '../../base/log.ts'
import type { FileRow } from '../blobs/rows.ts'
import { takeFile } from '../blobs/take-file.ts'
import type { Checkpoints } from './checkpoints.ts'
import type { CheckpointRow } from './rows.ts'

/** `later`: it is on its way, and asking again is the way to learn of it. */
export type Located = { ok: true; path: string } | { ok: false; message: string; later?: true }

/** Checkpoints that are brought at the same time. */
const bringsMax = 2
/** A failure is told for so long before it is tried again. */
const failureMs = 10_000
/** A folder that nobody uses stays for so long, for whoever asked just now. */
const unusedMs = 10 * 60_000
const makingSuffix = '.making'

interface Bringing {
  done: number
  readonly total: number
}

interface Failure {
  readonly message: string
  readonly untilMs: number
}

export class ModelFolders {
  readonly #checkpoints: Checkpoints
  readonly #folder: string
  readonly #log: Logger
  readonly #bringing = new Map<string, Bringing>()
  readonly #failures = new Map<string, Failure>()
  readonly #work = new Set<Promise<void>>()
  #isClosed = false

  /** `folder` is of this process alone. */
  constructor(checkpoints: Checkpoints, folder: string, log: Logger) {
    this.#checkpoints = checkpoints
    this.#folder = folder
    this.#log = log
    mkdirSync(folder, { recursive: true, mode: 0o700 })
  }

  /** What serving opens: a folder, or the one GGUF file in it. */
  async locate(checkpoint: string): Promise<Located> {
    const row = await this.#checkpoints.nouns.get(checkpoint)
    if (row === undefined) return { ok: false, message: `The checkpoint ${checkpoint} is gone.` }
    const files = servedFiles(await this.#checkpoints.files(row))
    try {
      const place = (await this.#inPlace(row, files)) ?? this.#brought(row, files)
      return place.ok ? { ok: true, path: within(place.path, files) } : place
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      return { ok: false, message: error.message }
    }
  }

  /** Resolves when nothing is on its way. */
  async idle(): Promise<void> {
    await Promise.all(this.#work)
  }

  /** Gives up what is on its way. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.idle()
  }

  /** Removes what none of these checkpoints needs, unless somebody has just asked for it; returns how many. */
  async sweep(inUse: () => Promise<Iterable<string>>): Promise<number> {
    // Read before the rows are: what is made after that is not looked at.
    const there = await readdir(this.#folder)
    const kept = new Set<string>()
    for (const id of await inUse()) {
      const row = await this.#checkpoints.nouns.get(id)
      if (row !== undefined) kept.add(keyOf(row))
    }
    let count = 0
    for (const name of there) {
      const key = name.replace(makingSuffix, '')
      if (this.#bringing.has(key) || (kept.has(key) && key === name) || this.#isFresh(name)) continue
      await rm(join(this.#folder, name), { recursive: true, force: true })
      count++
    }
    return count
  }

  #isFresh(name: string): boolean {
    const facts = statSync(join(this.#folder, name), { throwIfNoEntry: false })
    return facts !== undefined && this.#checkpoints.store.clock.unixMs() - facts.mtimeMs < unusedMs
  }

  /** The linked folder itself, of this machine, as long as its files are those that were linked. */
  async #inPlace(row: CheckpointRow, files: readonly FileRow[]): Promise<Located | undefined> {
    const [first] = files
    if (row.spec.source.kind !== 'link' || first === undefined) return undefined
    const { objects, key } = await this.#checkpoints.placeOf(row, first)
    if (objects.pathOf === undefined) return undefined
    for (const { path, digest } of files) {
      const info = await objects.head(path)
      if (info?.tag === digest) continue
      const message = `${path} ${info === undefined ? 'is gone' : 'has changed'} since it was linked at ${objects.url}.`
      return { ok: false, message }
    }
    return { ok: true, path: objects.pathOf(key).slice(0, -(key.length + 1)) }
  }

  #brought(row: CheckpointRow, files: readonly FileRow[]): Located {
    const key = keyOf(row)
    const path = join(this.#folder, key)
    const bringing = this.#bringing.get(key)
    if (bringing === undefined && existsSync(path)) {
      const now = new Date(this.#checkpoints.store.clock.unixMs())
      utimesSync(path, now, now)
      return { ok: true, path }
    }
    const failure = this.#failures.get(key)
    if (failure !== undefined && this.#checkpoints.store.clock.nowMs() < failure.untilMs)
      return { ok: false, message: failure.message }
    if (bringing === undefined && !this.#begin(row, files))
      return { ok: false, later: true, message: `${row.name} waits until other models have been fetched` }
    const { done, total } = bringing ?? { done: 0, total: 1 }
    const percent = total === 0 ? 100 : Math.floor((10 * done) / total) * 10
    return { ok: false, later: true, message: `${row.name} is being fetched: ${percent} %` }
  }

  #begin(row: CheckpointRow, files: readonly FileRow[]): boolean {
    if (this.#isClosed || this.#bringing.size >= bringsMax) return false
    const key = keyOf(row)
    const state: Bringing = { done: 0, total: files.reduce((sum, { bytes }) => sum + bytes, 0) }
    this.#bringing.set(key, state)
    this.#failures.delete(key)
    const work = this.#bring(row, files, state)
      .catch((error: unknown) => {
        this.#log.warn({ err: error, checkpoint: row.id }, 'a model could not be fetched')
        const untilMs = this.#checkpoints.store.clock.nowMs() + failureMs
        this.#failures.set(key, { message: messageOf(error), untilMs })
      })
      .finally(() => {
        this.#bringing.delete(key)
        this.#work.delete(work)
      })
    this.#work.add(work)
    return true
  }

  async #bring(row: CheckpointRow, files: readonly FileRow[], state: Bringing): Promise<void> {
    const target = join(this.#folder, keyOf(row))
    // Whole or not at all: what a crash leaves has another name.
    const making = target + makingSuffix
    await rm(making, { recursive: true, force: true })
    for (const file of files) {
      if (this.#isClosed) throw new UserError('The service stops.')
      const place = await this.#checkpoints.placeOf(row, file)
      await takeFile(place, file, join(making, file.path), 'shared', (count) => {
        state.done += count
      })
    }
    await rename(making, target)
  }
}

/** Of content that is ours, its digest; what lies in somebody's bucket is known by tags, which say less. */
function keyOf({ id, digest, spec }: CheckpointRow): string {
  return spec.source.kind === 'link' ? id : digest
}

/** Moments of the optimizer are as large as the model twice, and nothing that answers. */
function servedFiles(files: readonly FileRow[]): FileRow[] {
  return files.filter(({ path }) => !/^optimizer[^/]*\.safetensors$/.test(path))
}

function within(folder: string, files: readonly FileRow[]): string {
  const kind = servedAs(files.map(({ path }) => path))
  return typeof kind === 'object' ? join(folder, kind.gguf) : folder
}

/** As what files can be served: a folder with a model, an adapter's folder, or one GGUF file. */
export function servedAs(paths: readonly string[]): 'model' | 'adapter' | { gguf: string } | undefined {
  if (paths.includes('adapter_config.json')) return 'adapter'
  if (paths.includes('config.json')) return 'model'
  const [gguf, another] = paths.filter((path) => path.endsWith('.gguf'))
  return gguf !== undefined && another === undefined ? { gguf } : undefined
}
