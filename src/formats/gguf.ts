import { existsSync } from 'node:fs'
import { damaged, FileSource, openAndParse } from './file-source.ts'
import { type GgufHeader, readGgufHeader } from './gguf-header.ts'
import type { GgufEntry, GgufValue } from './gguf-values.ts'
import { closeAll, JoinedSource } from './joined-source.ts'
import { show } from './shape.ts'
import type { TensorSource } from './source.ts'

/** A GGUF model: tensors under GGUF's names, and the metadata that describes them and the tokenizer. */
export interface GgufSource extends TensorSource {
  /** 2 or 3. */
  readonly version: number
  readonly metadata: ReadonlyMap<string, GgufValue>
  /** The same values with their types, so that `writeGguf` can write them again unchanged. */
  readonly entries: ReadonlyMap<string, GgufEntry>
}

/**
 * Opens a GGUF file; of a model that was split (`NAME-00001-of-0000N.gguf`) the first part, which brings
 * the others along. Throws UserError naming the tensor or key and the byte when the header is wrong.
 */
export function openGguf(path: string): GgufSource {
  const first = openPart(path)
  const count = splitNumber(first.entries, 'split.count')
  if (count === undefined || count <= 1) return new GgufModel(first.source, first)
  const parts = [first]
  try {
    for (const name of siblingsOf(path, first, count)) parts.push(openPart(name))
    return new GgufModel(joinParts(path, parts), first)
  } catch (error) {
    closeAll(parts.map(({ source }) => source))
    throw error
  }
}

class GgufModel implements GgufSource {
  readonly version: number
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly entries: ReadonlyMap<string, GgufEntry>
  readonly #tensors: TensorSource

  constructor(tensors: TensorSource, { version, entries }: Pick<GgufHeader, 'version' | 'entries'>) {
    this.#tensors = tensors
    this.version = version
    this.entries = entries
    this.metadata = new Map([...entries].map(([key, { value }]) => [key, value]))
  }

  get path() {
    return this.#tensors.path
  }

  names() {
    return this.#tensors.names()
  }

  info(name: string) {
    return this.#tensors.info(name)
  }

  read(name: string, into: Uint8Array, offset = 0) {
    this.#tensors.read(name, into, offset)
  }

  [Symbol.dispose]() {
    this.#tensors[Symbol.dispose]()
  }
}

interface GgufPart extends GgufHeader {
  readonly source: TensorSource
}

function openPart(path: string): GgufPart {
  return openAndParse(path, (file) => {
    const header = readGgufHeader(file)
    return { ...header, source: new FileSource(file, header.places) }
  })
}

function splitNumber(entries: ReadonlyMap<string, GgufEntry>, key: string): number | undefined {
  const value = entries.get(key)?.value
  return typeof value === 'number' && Number.isInteger(value) ? value : undefined
}

/** The paths of parts 2 to N, all of which exist. */
function siblingsOf(path: string, first: GgufPart, count: number): string[] {
  const match = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/s.exec(path)
  if (match === null || Number(match[3]) !== count)
    throw damaged(
      path,
      0,
      `the file is one of ${count} parts, but its name does not end in -00001-of-${padded(count)}.gguf`,
      'Give the parts their original names.',
    )
  if (splitNumber(first.entries, 'split.no') !== 0 || Number(match[2]) !== 1)
    throw damaged(
      path,
      0,
      'the file is not the first part of its model',
      `Open ${match[1]}-00001-of-${match[3]}.gguf.`,
    )
  const siblings: string[] = []
  for (let part = 2; part <= count; part++) {
    const sibling = `${match[1]}-${padded(part)}-of-${match[3]}.gguf`
    if (!existsSync(sibling))
      throw damaged(
        path,
        0,
        `part ${part} of ${count}, ${sibling}, is missing`,
        'Download it into the same folder.',
      )
    siblings.push(sibling)
  }
  return siblings
}

function padded(part: number): string {
  return String(part).padStart(5, '0')
}

function joinParts(path: string, parts: readonly GgufPart[]): TensorSource {
  const owners = new Map<string, TensorSource>()
  for (const [index, { source, entries }] of parts.entries()) {
    if (splitNumber(entries, 'split.no') !== index)
      throw damaged(
        source.path,
        0,
        `the file says it is part ${splitNumber(entries, 'split.no')}, not ${index}`,
      )
    for (const name of source.names()) {
      if (owners.has(name))
        throw damaged(source.path, 0, `tensor ${show(name)} is in an earlier part as well`)
      owners.set(name, source)
    }
  }
  const promised = splitNumber(parts[0]!.entries, 'split.tensors.count')
  if (promised !== undefined && promised !== owners.size)
    throw damaged(
      path,
      0,
      `the model has ${owners.size} tensors, not the ${promised} that split.tensors.count says`,
    )
  return new JoinedSource(
    path,
    parts.map(({ source }) => source),
    owners,
  )
}
