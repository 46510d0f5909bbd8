import { assert } from '../base/assert.ts'
import { dtypes } from '../base/dtype.ts'
import { appendTensor, writtenBytes } from './append-tensor.ts'
import { type SaveOptions, saveAtomic } from './atomic-file.ts'
import { dimensionsMax, ggufMagic } from './gguf-header.ts'
import {
  arrayTypeId,
  fixedTypes,
  type GgufEntry,
  type GgufScalar,
  type GgufScalarValue,
  scalarId,
} from './gguf-values.ts'
import type { TensorToWrite } from './source.ts'

const alignment = 32
/** ggml stores names in 64 bytes with an ending zero and refuses longer ones. */
const nameBytesMax = 63

/**
 * Writes a GGUF file, version 3. The tensors keep their order; shapes are outermost first, as everywhere
 * here. Streams, and replaces an existing file only when the new one is whole.
 */
export function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufEntry>,
  tensors: Iterable<TensorToWrite>,
  options: SaveOptions = {},
): void {
  const list = [...tensors]
  // A different alignment in copied metadata would move the data that this header places at multiples of 32.
  const entries = [...metadata].filter(([key]) => key !== 'general.alignment')
  const header = Buffer.concat([
    uint32(ggufMagic),
    uint32(3),
    uint64(list.length),
    uint64(entries.length),
    ...entries.map(pair),
    ...tensorEntries(list),
  ])
  saveAtomic(
    path,
    (append) => {
      append(header)
      append(padding(header.length))
      for (const tensor of list) {
        appendTensor(tensor, append)
        append(padding(writtenBytes(tensor)))
      }
    },
    options,
  )
}

function pair([key, entry]: [string, GgufEntry]): Buffer {
  if (entry.type !== 'array')
    return Buffer.concat([text(key), uint32(scalarId(entry.type)), scalars(entry.type, [entry.value])])
  const { items, value } = entry
  const head = [text(key), uint32(arrayTypeId), uint32(scalarId(items)), uint64(value.length)]
  return Buffer.concat([...head, scalars(items, value)])
}

function scalars(type: GgufScalar, values: readonly GgufScalarValue[]): Buffer {
  if (type === 'string') return Buffer.concat(values.map((value) => text(String(value))))
  const codec = fixedTypes[type]
  const bytes = Buffer.alloc(codec.bytes * values.length)
  for (const [index, value] of values.entries()) codec.write(bytes, index * codec.bytes, value)
  return bytes
}

function tensorEntries(tensors: readonly TensorToWrite[]): Buffer[] {
  const names = new Set<string>()
  let offset = 0
  return tensors.map((tensor) => {
    const { name, dtype, shape } = tensor
    const encoded = text(name)
    assert(!names.has(name), `tensor names are unique: ${name}`)
    assert(encoded.length - 8 <= nameBytesMax, `tensor name ${name} has at most ${nameBytesMax} bytes`)
    assert(shape.length <= dimensionsMax, `tensor ${name} has at most ${dimensionsMax} dimensions`)
    names.add(name)
    const lengths = shape.toReversed().map(uint64)
    const entry = Buffer.concat([
      encoded,
      uint32(shape.length),
      ...lengths,
      uint32(dtypes[dtype].ggml),
      uint64(offset),
    ])
    offset += Math.ceil(writtenBytes(tensor) / alignment) * alignment
    return entry
  })
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8')
  return Buffer.concat([uint64(bytes.length), bytes])
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function padding(written: number): Buffer {
  return Buffer.alloc(Math.ceil(written / alignment) * alignment - written)
}
