import { assert } from '../base/assert.ts'
import { type DType, dtypes } from '../base/dtype.ts'
import { checkedPieces, writtenBytes } from './append-tensor.ts'
import { type SaveOptions, saveAtomic } from './atomic-file.ts'
import type { TensorToWrite } from './source.ts'

/** The data types in the order of the official library, which sorts by it, last first: wide types need the alignment. */
const officialOrder: readonly DType[] = ['U8', 'I8', 'I16', 'F16', 'BF16', 'I32', 'F32', 'F64', 'I64']

/**
 * Writes a safetensors file, byte for byte as the official library would (but for the order of
 * `metadata`, which is kept here and random there). Streams: no tensor is held longer than its turn.
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata?: Readonly<Record<string, string>>,
  options: SaveOptions = {},
): void {
  const pieces = safetensorsPieces(tensors, metadata)
  saveAtomic(
    path,
    (append) => {
      for (const piece of pieces) append(piece)
    },
    options,
  )
}

/** The same file's bytes in order, for who writes it otherwise. A piece may be reused after it was taken. */
export function safetensorsPieces(
  tensors: Iterable<TensorToWrite>,
  metadata?: Readonly<Record<string, string>>,
): Generator<Uint8Array> {
  const sorted = [...tensors].sort(byDtypeThenName)
  const header = headerOf(sorted, metadata)
  return (function* () {
    yield header
    for (const tensor of sorted) yield* checkedPieces(tensor)
  })()
}

function byDtypeThenName(a: TensorToWrite, b: TensorToWrite): number {
  const order = officialOrder.indexOf(b.dtype) - officialOrder.indexOf(a.dtype)
  return order !== 0 ? order : Buffer.compare(Buffer.from(a.name), Buffer.from(b.name))
}

function headerOf(tensors: readonly TensorToWrite[], metadata?: Readonly<Record<string, string>>): Buffer {
  const entries: string[] = []
  if (metadata !== undefined) entries.push(`"__metadata__":${JSON.stringify(metadata)}`)
  let offset = 0
  const names = new Set<string>(['__metadata__'])
  for (const { name, dtype, shape } of tensors) {
    assert(dtypes[dtype].block === 1, `${name} has a type that safetensors knows, not ${dtype}`)
    assert(!names.has(name), `tensor names are unique and not reserved: ${name}`)
    names.add(name)
    const end = offset + writtenBytes({ name, dtype, shape })
    const entry = { dtype, shape, data_offsets: [offset, end] }
    entries.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`)
    offset = end
  }
  const json = Buffer.from(`{${entries.join(',')}}`)
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ')
  padded.writeBigUInt64LE(BigInt(padded.length - 8), 0)
  json.copy(padded, 8)
  return padded
}
