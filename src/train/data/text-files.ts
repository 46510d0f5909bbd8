/** Texts of a job: files, gzipped or not, as streams of characters. */

import { UserError } from '../../base/errors.ts'
import { hashOfLargeFile } from '../../base/files.ts'
import type { Pause } from '../../base/pauses.ts'
import { chunksOf, readLines } from './lines.ts'
import { type FileSource, sourceFiles } from './source-files.ts'

const textChoice = { field: 'data.text', endings: /\.(txt|md)(\.gz)?$/i, endingNames: '.txt or .md' }

/** Paths of all sources: files, and of folders the .txt and .md files in the order of their names. */
export function textFiles(sources: readonly FileSource[], baseFolder: string): string[] {
  return sources.flatMap((source) => sourceFiles(source, baseFolder, textChoice))
}

/** Characters of a UTF-8 text as they stream in, without a byte order mark. */
export async function* charactersOf(path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  try {
    for await (const chunk of chunksOf(path)) yield decoder.decode(chunk, { stream: true })
    const last = decoder.decode()
    if (last !== '') yield last
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    // Reading it line by line says which line.
    for await (const _ of readLines(path));
    throw new UserError(`${path} is not UTF-8 text.`, { fix: 'Convert the file to UTF-8.', cause: error })
  }
}

/** UTF-16 units of a text from number `from` up to number `to`; a character of which only half lies there is left out. */
export async function* partOf(path: string, from: number, to: number): AsyncGenerator<string> {
  let start = 0
  for await (const text of charactersOf(path)) {
    const part = text.slice(Math.max(0, from - start), Math.max(0, to - start))
    // UTF-8 has no halves, so one at an end is our cut.
    const first = isHalf(part.charCodeAt(0), 0xdc00) ? 1 : 0
    const last = part.length - (isHalf(part.charCodeAt(part.length - 1), 0xd800) ? 1 : 0)
    if (first < last) yield part.slice(first, last)
    start += text.length
    if (start >= to) return
  }
}

/** Whether a unit is the first (0xd800) or the second (0xdc00) half of a character. */
function isHalf(unit: number, which: 0xd800 | 0xdc00): boolean {
  return (unit & 0xfc00) === which
}

/** The files of a job with where each is divided: its end is held out. What costs a pass over a file is done once. */
export class DividedTexts {
  readonly paths: readonly string[]
  readonly #share: number
  readonly #pause: Pause
  #sizes: number[] | undefined
  #digests: string[] | undefined

  /** `share` of each text's characters is held out. */
  constructor(paths: readonly string[], share: number, pause: Pause) {
    this.paths = paths
    this.#share = share
    this.#pause = pause
  }

  get share(): number {
    return this.#share
  }

  /** SHA-256 of each file. */
  async digests(): Promise<readonly string[]> {
    if (this.#digests !== undefined) return this.#digests
    const digests: string[] = []
    for (const path of this.paths) digests.push(await hashOfLargeFile(path, this.#pause))
    this.#digests = digests
    return digests
  }

  /** UTF-16 units of each text. Throws a UserError where there is no text at all. */
  async sizes(): Promise<readonly number[]> {
    if (this.#sizes !== undefined) return this.#sizes
    const sizes: number[] = []
    for (const path of this.paths) {
      let units = 0
      for await (const text of charactersOf(path)) {
        units += text.length
        await this.#pause()
      }
      sizes.push(units)
    }
    if (sizes.every((units) => units === 0)) {
      throw new UserError('The data has no text.', {
        fix: 'Point the field data.text at files that are not empty.',
      })
    }
    this.#sizes = sizes
    return sizes
  }

  /** Units that are learned from, of all texts. */
  async trainingUnits(): Promise<number> {
    const sizes = await this.sizes()
    return sizes.reduce((sum, units) => sum + this.#cutOf(units), 0)
  }

  /** The parts of one side that are not empty, each with its file's number. */
  async *parts(
    side: 'training' | 'validation',
  ): AsyncGenerator<{ file: number; text: AsyncGenerator<string> }> {
    const sizes = await this.sizes()
    for (const [file, path] of this.paths.entries()) {
      const units = sizes[file]!
      const cut = this.#cutOf(units)
      const [from, to] = side === 'training' ? [0, cut] : [cut, units]
      if (to > from) yield { file, text: pausing(partOf(path, from, to), this.#pause) }
    }
  }

  #cutOf(units: number): number {
    return Math.floor(units * (1 - this.#share))
  }
}

async function* pausing(texts: AsyncGenerator<string>, pause: Pause): AsyncGenerator<string> {
  for await (const text of texts) {
    yield text
    await pause()
  }
}
