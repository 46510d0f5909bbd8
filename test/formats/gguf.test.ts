import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { openGguf } from '../../src/formats/gguf.ts'
import type { GgufEntry } from '../../src/formats/gguf-values.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { piecesOf } from '../../src/formats/source.ts'
import { sharedData } from '../shared.ts'
import { refusalOf, TemporaryFolder } from './folders.ts'

/** Little-endian bytes: numbers in 32 bits, bigints in 64, texts with their length, buffers as they are. */
function bytesOf(...parts: (number | bigint | string | Buffer)[]): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (Buffer.isBuffer(part)) return part
      if (typeof part === 'string') return bytesOf(BigInt(Buffer.byteLength(part)), Buffer.from(part))
      const bytes = Buffer.alloc(typeof part === 'bigint' ? 8 : 4)
      if (typeof part === 'bigint') bytes.writeBigUInt64LE(part)
      else bytes.writeUInt32LE(part)
      return bytes
    }),
  )
}

const magic = Buffer.from('GGUF')
const head = (tensors: bigint, pairs: bigint, version = 3) => bytesOf(magic, version, tensors, pairs)

/** One or more tensors of 8 floats: the header, then `dataBytes` bytes from the next multiple of 32 on. */
function fileOf(header: Buffer, dataBytes: number): Buffer {
  return Buffer.concat([header, Buffer.alloc(Math.ceil(header.length / 32) * 32 - header.length + dataBytes)])
}

const f32 = (name: string, offset: bigint) => bytesOf(name, 1, 8n, 0, offset)
const pad = Buffer.alloc(200)

const refused: Record<string, [Buffer, RegExp]> = {
  'an empty file': [Buffer.alloc(0), /ends inside the magic number.*byte 0/],
  'another magic number': [Buffer.from('GGML0000000000000000000000000000'), /does not start with "GGUF"/],
  'version 1': [head(0n, 0n, 1), /version 1.*byte 4/],
  'big-endian numbers': [head(0n, 0n, 0x03000000), /big-endian/],
  'a tensor count that lies': [head(2n, 0n), /the tensor count says 2.*byte 8/],
  'a tensor count of 2^64 - 1': [head(2n ** 64n - 1n, 0n), /the tensor count says/],
  'a metadata count that lies': [head(0n, 9n), /the metadata count says 9.*byte 16/],
  'a key longer than the file': [
    bytesOf(head(0n, 1n), 1000n, pad),
    /metadata key is a text of 1000 bytes.*byte 24/,
  ],
  'a text of 2^63 bytes': [
    bytesOf(head(0n, 1n), 'key', 8, 2n ** 63n, pad),
    /metadata "key" is a text.*byte 39/,
  ],
  'a list longer than the file': [
    bytesOf(head(0n, 1n), 'key', 9, 4, 51n, pad),
    /"key" says 51, but only 200 .*byte 43/,
  ],
  'a list of 2^60 values': [
    bytesOf(head(0n, 1n), 'key', 9, 0, 2n ** 60n, pad),
    /"key" says 1152921504606847000; at most/,
  ],
  'a list of lists': [
    bytesOf(head(0n, 1n), 'key', 9, 9, 1n, 0, 1n, pad),
    /"key" is a list of the unknown type 9/,
  ],
  'an unknown value type': [bytesOf(head(0n, 1n), 'key', 13, pad), /"key" has the unknown type 13.*byte 24/],
  'a bool that is 2': [bytesOf(head(0n, 1n), 'key', 7, Buffer.from([2])), /"key" is a bool of value 2/],
  'a key that occurs twice': [bytesOf(head(0n, 2n), 'key', 4, 1, 'key', 4, 1), /"key" occurs twice.*byte 43/],
  'a key that is no UTF-8': [bytesOf(head(0n, 1n), 1n, Buffer.from([0xff]), 4, 1), /key is not valid UTF-8/],
  'an end inside the metadata': [
    bytesOf(head(0n, 1n), 'keyed', 11, 1),
    /ends inside metadata "keyed".*byte 45/,
  ],
  'an alignment of 3': [bytesOf(head(0n, 1n), 'general.alignment', 4, 3), /alignment is 3/],
  'an alignment of 0': [bytesOf(head(0n, 1n), 'general.alignment', 4, 0), /alignment is 0/],
  'an alignment that is text': [bytesOf(head(0n, 1n), 'general.alignment', 8, '32'), /alignment is "32"/],
  'five dimensions': [bytesOf(head(1n, 0n), 'a', 5, pad), /tensor "a" says it has 5 dimensions.*byte 24/],
  'a shape that overflows': [
    bytesOf(head(1n, 0n), 'a', 2, 2n ** 40n, 2n ** 40n, 0, 0n, pad),
    /"a": shape .* overflows/,
  ],
  'a length beyond 2^53': [bytesOf(head(1n, 0n), 'a', 1, 2n ** 63n, 0, 0n, pad), /"a": shape/],
  'rows that split blocks': [bytesOf(head(1n, 0n), 'a', 2, 33n, 32n, 8, 0n, pad), /"a": rows of 33 .*Q8_0/],
  'a format that is not read': [
    bytesOf(head(1n, 0n), 'a', 1, 256n, 23, 0n, pad),
    /"a" has the format IQ4_XS/,
  ],
  'a format that does not exist': [bytesOf(head(1n, 0n), 'a', 1, 256n, 99, 0n, pad), /ggml type 99/],
  'a misaligned offset': [
    fileOf(bytesOf(head(1n, 0n), f32('a', 8n)), 64),
    /"a" starts at 8 .*multiple of 32/,
  ],
  'a tensor beyond the file': [
    fileOf(bytesOf(head(1n, 0n), f32('a', 32n)), 63),
    /"a" ends at byte 128, beyond .* 127/,
  ],
  'an offset of almost 2^64': [
    fileOf(bytesOf(head(1n, 0n), f32('a', 2n ** 64n - 32n)), 64),
    /"a" ends at byte/,
  ],
  'two tensors that share bytes': [
    fileOf(bytesOf(head(2n, 0n), f32('a', 0n), f32('b', 0n)), 64),
    /tensor "b" starts at byte 96, inside/,
  ],
  'a tensor that occurs twice': [
    fileOf(bytesOf(head(2n, 0n), f32('a', 0n), f32('a', 32n)), 64),
    /"a" occurs twice.*byte 57/,
  ],
}

describe('a GGUF file is refused for', () => {
  test.each(Object.keys(refused))('%s', (what) => {
    using folder = new TemporaryFolder()
    const [bytes, says] = refused[what]!
    writeFileSync(folder.file('m.gguf'), bytes)
    const refusal = refusalOf(() => openGguf(folder.file('m.gguf')))
    expect(refusal).toMatch(says)
    expect(refusal).toMatch(/m\.gguf: .*\(byte \d+\)/)
  })

  test('being cut anywhere', () => {
    using folder = new TemporaryFolder()
    const path = folder.file('m.gguf')
    writeGguf(path, everyType, [{ name: 'a', dtype: 'F32', shape: [8], data: new Uint8Array(32) }])
    for (let length = statSync(path).size - 1; length >= 0; length--) {
      truncateSync(path, length)
      expect(refusalOf(() => openGguf(path))).toMatch(/byte \d+/)
    }
  })
})

const everyType = new Map<string, GgufEntry>([
  ['u8', { type: 'uint8', value: 255 }],
  ['i8', { type: 'int8', value: -128 }],
  ['u16', { type: 'uint16', value: 65535 }],
  ['i16', { type: 'int16', value: -32768 }],
  ['u32', { type: 'uint32', value: 4294967295 }],
  ['i32', { type: 'int32', value: -2147483648 }],
  ['f32', { type: 'float32', value: 1.5 }],
  ['yes', { type: 'bool', value: true }],
  ['text', { type: 'string', value: 'ropeway 한글 🚡' }],
  ['u64', { type: 'uint64', value: 2 ** 53 - 1 }],
  ['big', { type: 'uint64', value: 2n ** 64n - 1n }],
  ['i64', { type: 'int64', value: -(2n ** 63n) }],
  ['f64', { type: 'float64', value: 0.1 }],
  ['texts', { type: 'array', items: 'string', value: ['a', '', '끝'] }],
  ['floats', { type: 'array', items: 'float32', value: [0.5, -2] }],
  ['none', { type: 'array', items: 'int64', value: [] }],
  ['flags', { type: 'array', items: 'bool', value: [true, false] }],
  ['wide', { type: 'array', items: 'uint64', value: [1, 2n ** 60n] }],
])

test('every metadata type survives writing and reading, as number where a number is exact', () => {
  using folder = new TemporaryFolder()
  writeGguf(folder.file('m.gguf'), everyType, [])
  using source = openGguf(folder.file('m.gguf'))
  expect(source.entries).toEqual(everyType)
  expect(source.metadata.get('u64')).toBe(2 ** 53 - 1)
  expect(source.metadata.get('big')).toBe(2n ** 64n - 1n)
  expect(source.metadata.get('texts')).toEqual(['a', '', '끝'])
})

test('version 2 is read as version 3 is', () => {
  using folder = new TemporaryFolder()
  writeFileSync(folder.file('m.gguf'), fileOf(bytesOf(head(1n, 1n, 2), 'key', 4, 7, f32('a', 0n)), 32))
  using source = openGguf(folder.file('m.gguf'))
  expect(source.version).toBe(2)
  expect(source.metadata.get('key')).toBe(7)
  expect(source.info('a')).toEqual({ name: 'a', dtype: 'F32', shape: [8], bytes: 32 })
})

test.each([
  'stories260K/stories260K-f32',
  'babyllama-char-1M/babyllama-q4_0',
  'babyllama-char-1M/babyllama-q8_0',
])('rewriting %s.gguf from what was read gives the same bytes', (model) => {
  const original = sharedData('models', `${model}.gguf`)
  if (original === undefined) return
  using folder = new TemporaryFolder()
  using source = openGguf(original)
  const tensors = source
    .names()
    .map((name) => source.info(name)!)
    .map((info) => ({ ...info, data: () => piecesOf(source, info, 1000) }))
  writeGguf(folder.file('copy'), source.entries, tensors)
  expect(readFileSync(folder.file('copy')).equals(readFileSync(original))).toBe(true)
})

test('a vocabulary of 262,144 tokens with scores and types opens in under a second of processor time', () => {
  using folder = new TemporaryFolder()
  const tokens = Array.from({ length: 262_144 }, (_, id) => `▁token${id}`)
  const entries = new Map<string, GgufEntry>([
    ['tokenizer.ggml.tokens', { type: 'array', items: 'string', value: tokens }],
    ['tokenizer.ggml.scores', { type: 'array', items: 'float32', value: tokens.map((_, id) => -id) }],
    ['tokenizer.ggml.token_type', { type: 'array', items: 'int32', value: tokens.map(() => 1) }],
  ])
  writeGguf(folder.file('m.gguf'), entries, [])
  const start = process.cpuUsage()
  using source = openGguf(folder.file('m.gguf'))
  const used = process.cpuUsage(start)
  expect((used.user + used.system) / 1000).toBeLessThan(1000)
  expect((source.metadata.get('tokenizer.ggml.tokens') as string[]).join()).toBe(tokens.join())
})

test('texts longer than the read buffer and across its border are whole', () => {
  using folder = new TemporaryFolder()
  const texts = [1 << 20, 3, (1 << 20) - 30, 5_000_000, 1].map(
    (length) => '한'.repeat(length / 3) + '.'.repeat(length % 3),
  )
  const entry: GgufEntry = { type: 'array', items: 'string', value: texts }
  writeGguf(folder.file('m.gguf'), new Map([['texts', entry]]), [])
  using source = openGguf(folder.file('m.gguf'))
  expect(source.metadata.get('texts')).toEqual(texts)
})

describe('a split model', () => {
  function part(
    folder: TemporaryFolder,
    number: number,
    of: number,
    split: Record<string, number>,
    tensor: string,
  ): string {
    const pad = (value: number) => String(value).padStart(5, '0')
    const path = folder.file(`m-${pad(number)}-of-${pad(of)}.gguf`)
    const entries = Object.entries(split).map(
      ([key, value]) => [`split.${key}`, { type: 'uint16', value }] as const,
    )
    writeGguf(path, new Map<string, GgufEntry>(entries), [
      { name: tensor, dtype: 'I8', shape: [1], data: new Uint8Array(1) },
    ])
    return path
  }

  test('is refused when a part is missing, is not the part that it should be, or repeats a tensor', () => {
    using folder = new TemporaryFolder()
    const first = part(folder, 1, 2, { no: 0, count: 2 }, 'a')
    expect(refusalOf(() => openGguf(first))).toContain('m-00002-of-00002.gguf, is missing')
    const second = part(folder, 2, 2, { no: 0, count: 2 }, 'b')
    expect(refusalOf(() => openGguf(first))).toContain('says it is part 0, not 1')
    part(folder, 2, 2, { no: 1, count: 2 }, 'a')
    expect(refusalOf(() => openGguf(first))).toContain('"a" is in an earlier part')
    part(folder, 2, 2, { no: 1, count: 2 }, 'b')
    expect(refusalOf(() => openGguf(second))).toContain('not the first part')
    part(folder, 1, 2, { no: 0, count: 2, 'tensors.count': 3 }, 'a')
    expect(refusalOf(() => openGguf(first))).toContain('2 tensors, not the 3')
  })

  test('is refused under a name that does not say where the other parts are', () => {
    using folder = new TemporaryFolder()
    const path = part(folder, 1, 3, { no: 0, count: 2 }, 'a')
    expect(existsSync(path)).toBe(true)
    expect(refusalOf(() => openGguf(path))).toContain('-00001-of-00002.gguf')
  })
})
