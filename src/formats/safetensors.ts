import { type DType, dtypes } from '../base/dtype.ts'
import { messageOf } from '../base/errors.ts'
import { damaged, FileSource, type OpenFile, openAndParse, type TensorPlace } from './file-source.ts'
import { type JsonKeys, jsonKeys } from './json-keys.ts'
import { encodedSize, show } from './shape.ts'

/**
 * The safetensors format (github.com/huggingface/safetensors): eight bytes with the header's length,
 * a JSON header, then the data of all tensors without a gap up to the end of the file.
 *
 * As strict as the official reader: a file in which two tensors share bytes, or in which bytes belong to
 * nobody, is refused. Such files are how one parser is made to see what another does not.
 */

/** The official reader's limit. */
export const headerBytesMax = 100_000_000

const prefixBytes = 8

/** The format's names for what Ropeway reads. Block formats exist in GGUF only. */
const dtypeNames: ReadonlySet<string> = new Set(
  (Object.keys(dtypes) as DType[]).filter((name) => dtypes[name].block === 1),
)

export class SafetensorsFile extends FileSource {
  /** The free-form text pairs that the writer left. */
  readonly metadata: ReadonlyMap<string, string>

  constructor(file: OpenFile, header: SafetensorsHeader) {
    super(file, header.places)
    this.metadata = header.metadata
  }
}

interface SafetensorsHeader {
  readonly places: ReadonlyMap<string, TensorPlace>
  readonly metadata: ReadonlyMap<string, string>
}

/** Opens one safetensors file. Throws UserError naming the tensor and the byte when anything about the header is wrong. */
export function openSafetensors(path: string): SafetensorsFile {
  return openAndParse(path, (file) => new SafetensorsFile(file, readHeader(file)))
}

function readHeader(file: OpenFile): SafetensorsHeader {
  const text = headerText(file)
  const parsed = parseJsonObject(file.path, text, prefixBytes)
  const keys = uniqueKeys(file.path, text, prefixBytes, 1)
  const places = new Map<string, TensorPlace>()
  let metadata: ReadonlyMap<string, string> = new Map()
  for (const [name, entry] of Object.entries(parsed)) {
    const byte = prefixBytes + (keys.at.get(name) ?? 0)
    if (name === '__metadata__') metadata = readMetadata(file.path, entry, byte)
    else places.set(name, readPlace(file, name, entry, byte, prefixBytes + text.length))
  }
  checkNoGaps(file, places, prefixBytes + text.length)
  return { places, metadata }
}

function headerText(file: OpenFile): Buffer {
  const prefix = Buffer.alloc(prefixBytes)
  if (file.read(0, prefix) < prefixBytes)
    throw damaged(file.path, file.bytes, `the file has ${file.bytes} bytes, too few for a safetensors header`)
  const length = Number(prefix.readBigUInt64LE(0))
  if (length > headerBytesMax)
    throw damaged(
      file.path,
      0,
      `the header says it is ${length} bytes long; at most ${headerBytesMax} are allowed`,
    )
  if (prefixBytes + length > file.bytes)
    throw damaged(
      file.path,
      0,
      `the header says it is ${length} bytes long but the file ends after ${file.bytes}`,
    )
  const text = Buffer.alloc(length)
  if (file.read(prefixBytes, text) < length)
    throw damaged(file.path, prefixBytes, 'the header cannot be read')
  if (text[0] !== 0x7b) throw damaged(file.path, prefixBytes, 'the header does not start with "{"')
  return text
}

/** A JSON object out of bytes that may be anything. `base` is where `text` stands in its file. */
export function parseJsonObject(path: string, text: Uint8Array, base: number): Record<string, unknown> {
  let parsed: unknown
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(text))
  } catch (error) {
    throw damaged(path, base, `the header is not valid JSON: ${messageOf(error).slice(0, 200)}`)
  }
  if (!isObject(parsed)) throw damaged(path, base, 'the header is not a JSON object')
  return parsed
}

/** Where the keys at `depth` stand. An object that names something twice is refused. */
export function uniqueKeys(path: string, text: Uint8Array, base: number, depth: number): JsonKeys {
  const keys = jsonKeys(text, depth)
  if (keys.repeated !== undefined) {
    const { key, byte } = keys.repeated
    throw damaged(path, base + byte, `the name ${show(key)} occurs twice in the header`)
  }
  return keys
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function readMetadata(path: string, entry: unknown, byte: number): ReadonlyMap<string, string> {
  if (!isObject(entry)) throw damaged(path, byte, '__metadata__ is not an object')
  const metadata = new Map<string, string>()
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string')
      throw damaged(path, byte, `__metadata__ holds ${show(key)}, which is not text`)
    metadata.set(key, value)
  }
  return metadata
}

function readPlace(
  file: OpenFile,
  name: string,
  entry: unknown,
  byte: number,
  dataStart: number,
): TensorPlace {
  const refuse = (why: string) => damaged(file.path, byte, `tensor ${show(name)}: ${why}`)
  if (!isObject(entry)) throw refuse('its entry is not an object')
  const { dtype, shape, data_offsets: offsets } = entry
  if (typeof dtype !== 'string' || !dtypeNames.has(dtype))
    throw refuse(`Ropeway does not read dtype ${show(dtype)}; it reads ${[...dtypeNames].join(', ')}`)
  if (!Array.isArray(shape)) throw refuse('its shape is not a list')
  const size = encodedSize(dtype as DType, shape)
  if (!size.ok) throw refuse(size.why)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isOffset))
    throw refuse(`data_offsets ${show(offsets)} are not two whole numbers`)
  const [begin, end] = offsets as [number, number]
  if (end - begin !== size.bytes)
    throw refuse(
      `data_offsets ${show(offsets)} span ${end - begin} bytes; ${dtype} ${show(shape)} takes ${size.bytes}`,
    )
  if (dataStart + end > file.bytes)
    throw damaged(
      file.path,
      file.bytes,
      `tensor ${show(name)} ends at byte ${dataStart + end} but the file ends before it`,
    )
  return { info: { name, dtype: dtype as DType, shape, bytes: size.bytes }, start: dataStart + begin }
}

function isOffset(value: unknown): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function checkNoGaps(file: OpenFile, places: ReadonlyMap<string, TensorPlace>, dataStart: number): void {
  // An empty tensor may share its start with its neighbour, so it must come first.
  const inOrder = [...places.values()].sort((a, b) => a.start - b.start || a.info.bytes - b.info.bytes)
  let next = dataStart
  for (const { info, start } of inOrder) {
    const tensor = `tensor ${show(info.name)} starts at byte ${start}`
    if (start < next)
      throw damaged(file.path, start, `${tensor}, inside the tensor that ends at byte ${next}`)
    if (start > next) throw damaged(file.path, next, `${tensor}, but the data before it ends at byte ${next}`)
    next = start + info.bytes
  }
  if (next !== file.bytes)
    throw damaged(
      file.path,
      next,
      `the last tensor ends at byte ${next} but the file has ${file.bytes} bytes`,
    )
}
