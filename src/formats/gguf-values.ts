/** The value types of GGUF metadata, by the names and numbers of its specification (ggml repository, docs/gguf.md). */

export type GgufScalarValue = number | bigint | boolean | string
/** 64-bit integers are numbers where a number is exact, else bigints. */
export type GgufValue = GgufScalarValue | readonly GgufScalarValue[]

/** A value with its type in the file, so that what was read can be written again unchanged. */
export type GgufEntry =
  | { readonly type: GgufScalar; readonly value: GgufScalarValue }
  | { readonly type: 'array'; readonly items: GgufScalar; readonly value: readonly GgufScalarValue[] }

interface FixedCodec {
  readonly id: number
  readonly bytes: number
  read(from: Buffer, at: number): GgufScalarValue
  write(to: Buffer, at: number, value: GgufScalarValue): void
}

/** Types whose values all have the same size. */
export const fixedTypes = {
  uint8: {
    id: 0,
    bytes: 1,
    read: (from, at) => from[at]!,
    write: (to, at, value) => void to.writeUInt8(Number(value), at),
  },
  int8: {
    id: 1,
    bytes: 1,
    read: (from, at) => from.readInt8(at),
    write: (to, at, value) => void to.writeInt8(Number(value), at),
  },
  uint16: {
    id: 2,
    bytes: 2,
    read: (from, at) => from.readUInt16LE(at),
    write: (to, at, value) => void to.writeUInt16LE(Number(value), at),
  },
  int16: {
    id: 3,
    bytes: 2,
    read: (from, at) => from.readInt16LE(at),
    write: (to, at, value) => void to.writeInt16LE(Number(value), at),
  },
  uint32: {
    id: 4,
    bytes: 4,
    read: (from, at) => from.readUInt32LE(at),
    write: (to, at, value) => void to.writeUInt32LE(Number(value), at),
  },
  int32: {
    id: 5,
    bytes: 4,
    read: (from, at) => from.readInt32LE(at),
    write: (to, at, value) => void to.writeInt32LE(Number(value), at),
  },
  float32: {
    id: 6,
    bytes: 4,
    read: (from, at) => from.readFloatLE(at),
    write: (to, at, value) => void to.writeFloatLE(Number(value), at),
  },
  bool: {
    id: 7,
    bytes: 1,
    read: (from, at) => from[at] !== 0,
    write: (to, at, value) => void to.writeUInt8(value ? 1 : 0, at),
  },
  uint64: {
    id: 10,
    bytes: 8,
    read: (from, at) => numberIfExact(from.readBigUInt64LE(at)),
    write: (to, at, value) => void to.writeBigUInt64LE(BigInt(value), at),
  },
  int64: {
    id: 11,
    bytes: 8,
    read: (from, at) => numberIfExact(from.readBigInt64LE(at)),
    write: (to, at, value) => void to.writeBigInt64LE(BigInt(value), at),
  },
  float64: {
    id: 12,
    bytes: 8,
    read: (from, at) => from.readDoubleLE(at),
    write: (to, at, value) => void to.writeDoubleLE(Number(value), at),
  },
} as const satisfies Record<string, FixedCodec>

export type GgufScalar = keyof typeof fixedTypes | 'string'

export const stringTypeId = 8
export const arrayTypeId = 9

const scalarsById = new Map<number, GgufScalar>([
  [stringTypeId, 'string'],
  ...(Object.keys(fixedTypes) as (keyof typeof fixedTypes)[]).map(
    (name) => [fixedTypes[name].id, name] as const,
  ),
])

/** The scalar type with the number `id`; undefined for arrays and for numbers that mean nothing. */
export function scalarById(id: number): GgufScalar | undefined {
  return scalarsById.get(id)
}

export function scalarId(type: GgufScalar): number {
  return type === 'string' ? stringTypeId : fixedTypes[type].id
}

function numberIfExact(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}
