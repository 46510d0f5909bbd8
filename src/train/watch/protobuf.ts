/** As much of Protocol Buffers' wire format as event files need (protobuf.dev/programming-guides/encoding). */

/** Fields one after another: a message. */
export function message(...fields: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(fields)
}

function tag(field: number, wireType: number): Uint8Array {
  return varint(BigInt((field << 3) | wireType))
}

function varint(value: bigint): Uint8Array {
  const bytes: number[] = []
  let left = BigInt.asUintN(64, value)
  for (; left > 127n; left >>= 7n) bytes.push(Number(left & 127n) | 128)
  bytes.push(Number(left))
  return Uint8Array.from(bytes)
}

export function integer(field: number, value: number): Uint8Array {
  return message(tag(field, 0), varint(BigInt(Math.trunc(value))))
}

export function double(field: number, value: number): Uint8Array {
  return message(tag(field, 1), new Uint8Array(Float64Array.of(value).buffer))
}

export function float(field: number, value: number): Uint8Array {
  return message(tag(field, 5), new Uint8Array(Float32Array.of(value).buffer))
}

export function bytes(field: number, value: Uint8Array): Uint8Array {
  return message(tag(field, 2), varint(BigInt(value.length)), value)
}

export function text(field: number, value: string): Uint8Array {
  return bytes(field, Buffer.from(value))
}
