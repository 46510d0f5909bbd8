import { type DType, dtypeByGgmlId } from '../base/dtype.ts'
import { damaged, type OpenFile, type TensorPlace } from './file-source.ts'
import { GgufCursor } from './gguf-cursor.ts'
import { arrayTypeId, type GgufEntry, scalarById } from './gguf-values.ts'
import { encodedSize, show } from './shape.ts'

/** The header of a GGUF file (specification: ggml repository, docs/gguf.md), checked down to the last tensor's last byte. */
export interface GgufHeader {
  readonly version: number
  readonly alignment: number
  readonly entries: ReadonlyMap<string, GgufEntry>
  readonly places: ReadonlyMap<string, TensorPlace>
}

export const ggufMagic = 0x46554747
export const dimensionsMax = 4
const tensorsMax = 1 << 20
const pairsMax = 1 << 16
const defaultAlignment = 32
/** Least bytes of a metadata pair (empty key, type, one byte) and of a tensor's entry (empty name, no dimension). */
const leastPairBytes = 8 + 4 + 1
const leastTensorBytes = 8 + 4 + 4 + 8

/** Formats of ggml that exist but that Ropeway does not read, so that the refusal can name them. */
const unreadTypes: Readonly<Record<number, string>> = {
  9: 'Q8_1',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
}

export function readGgufHeader(file: OpenFile): GgufHeader {
  const cursor = new GgufCursor(file)
  const version = readVersion(cursor)
  const tensorCount = cursor.count(leastTensorBytes, 'the tensor count', tensorsMax)
  const pairCount = cursor.count(leastPairBytes, 'the metadata count', pairsMax)
  const entries = new Map<string, GgufEntry>()
  for (let index = 0; index < pairCount; index++) readPair(cursor, entries)
  const alignment = readAlignment(cursor, entries)
  const tensors = new Map<string, TensorEntry>()
  for (let index = 0; index < tensorCount; index++) {
    const tensor = readTensor(cursor, alignment)
    if (tensors.has(tensor.name)) throw cursor.refuse(`tensor ${show(tensor.name)} occurs twice`, tensor.byte)
    tensors.set(tensor.name, tensor)
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment
  return { version, alignment, entries, places: placeTensors(file, tensors, dataStart) }
}

function readVersion(cursor: GgufCursor): number {
  const magic = cursor.uint32('the magic number')
  if (magic !== ggufMagic) throw cursor.refuse('the file does not start with "GGUF"', 0)
  const version = cursor.uint32('the version')
  if (version === 0x02000000 || version === 0x03000000) throw cursor.refuse('the file is big-endian GGUF', 4)
  if (version !== 2 && version !== 3)
    throw cursor.refuse(`the file is GGUF version ${version}; Ropeway reads 2 and 3`, 4)
  return version
}

function readPair(cursor: GgufCursor, entries: Map<string, GgufEntry>): void {
  const byte = cursor.position
  const key = cursor.name('a metadata key')
  const what = `metadata ${show(key)}`
  if (entries.has(key)) throw cursor.refuse(`${what} occurs twice`, byte)
  const type = cursor.uint32(`the type of ${what}`)
  if (type !== arrayTypeId) {
    const scalar = scalarById(type)
    if (scalar === undefined) throw cursor.refuse(`${what} has the unknown type ${type}`, byte)
    entries.set(key, { type: scalar, value: cursor.scalar(scalar, what) })
    return
  }
  const itemType = cursor.uint32(`the item type of ${what}`)
  const items = scalarById(itemType)
  // ggml's own reader refuses lists of lists as well; no model uses them.
  if (items === undefined) throw cursor.refuse(`${what} is a list of the unknown type ${itemType}`, byte)
  entries.set(key, { type: 'array', items, value: cursor.array(items, what) })
}

function readAlignment(cursor: GgufCursor, entries: ReadonlyMap<string, GgufEntry>): number {
  const entry = entries.get('general.alignment')
  if (entry === undefined) return defaultAlignment
  const { value } = entry
  if (typeof value !== 'number' || value < 1 || !Number.isInteger(Math.log2(value)))
    throw cursor.refuse(`general.alignment is ${show(value)}, not a power of two`)
  return value
}

interface TensorEntry {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly bytes: number
  /** Counted from the start of the data section. */
  readonly offset: number
  /** Where the entry stands in the header. */
  readonly byte: number
}

function readTensor(cursor: GgufCursor, alignment: number): TensorEntry {
  const byte = cursor.position
  const name = cursor.name('a tensor name')
  const what = `tensor ${show(name)}`
  const dimensions = cursor.uint32(`the dimensions of ${what}`)
  if (dimensions > dimensionsMax)
    throw cursor.refuse(`${what} says it has ${dimensions} dimensions; at most ${dimensionsMax} exist`, byte)
  const shape: number[] = []
  for (let index = 0; index < dimensions; index++) shape.unshift(cursor.uint64(`the shape of ${what}`))
  const type = cursor.uint32(`the type of ${what}`)
  const dtype = dtypeByGgmlId(type)
  if (dtype === undefined)
    throw damaged(
      cursor.path,
      byte,
      `${what} has the format ${unreadTypes[type] ?? 'unknown'} (ggml type ${type}), which Ropeway does not read`,
      'Use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4 or Q2_K to Q6_K.',
    )
  const size = encodedSize(dtype, shape)
  if (!size.ok) throw cursor.refuse(`${what}: ${size.why}`, byte)
  const offset = cursor.uint64(`the offset of ${what}`)
  if (offset % alignment !== 0)
    throw cursor.refuse(`${what} starts at ${offset} in the data, not a multiple of ${alignment}`, byte)
  return { name, dtype, shape, bytes: size.bytes, offset, byte }
}

/** Puts the tensors into the file, refusing those that leave it or share bytes. Padding and gaps between them are allowed. */
function placeTensors(
  file: OpenFile,
  tensors: ReadonlyMap<string, TensorEntry>,
  dataStart: number,
): ReadonlyMap<string, TensorPlace> {
  const places = new Map<string, TensorPlace>()
  for (const { name, dtype, shape, bytes, offset, byte } of tensors.values()) {
    const start = dataStart + offset
    if (start + bytes > file.bytes)
      throw damaged(
        file.path,
        byte,
        `tensor ${show(name)} ends at byte ${start + bytes}, beyond the file's ${file.bytes}`,
      )
    places.set(name, { info: { name, dtype, shape, bytes }, start })
  }
  const inOrder = [...places.values()].filter(({ info }) => info.bytes > 0).sort((a, b) => a.start - b.start)
  let end = 0
  for (const { info, start } of inOrder) {
    if (start < end)
      throw damaged(
        file.path,
        start,
        `tensor ${show(info.name)} starts at byte ${start}, inside one that ends at ${end}`,
      )
    end = start + info.bytes
  }
  return places
}
