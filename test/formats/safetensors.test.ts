import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { AssertionError } from '../../src/base/assert.ts'
import { openShardedSafetensors } from '../../src/formats/model-folder.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import { piecesOf } from '../../src/formats/source.ts'
import { sharedData } from '../shared.ts'
import { refusalOf, TemporaryFolder } from './folders.ts'

/** The bytes of a safetensors file with any header; `length` is what the prefix claims. */
function fileOf(header: string | object, dataBytes: number, length?: bigint): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(json.length))
  return Buffer.concat([prefix, json, Buffer.alloc(dataBytes)])
}

const f32 = (shape: unknown, begin: unknown, end: unknown) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
})

/** What is wrong: the file's bytes and what the refusal must say. */
const refused: Record<string, [Buffer, RegExp]> = {
  'an empty file': [Buffer.alloc(0), /too few.*byte 0/],
  'a header longer than 100 MB': [fileOf({}, 0, 100_000_001n), /100000001 bytes long.*byte 0/],
  'a header of 2^64 - 1 bytes': [fileOf({}, 0, 2n ** 64n - 1n), /at most 100000000.*byte 0/],
  'a header beyond the file': [fileOf({}, 0, 3n), /file ends after 10.*byte 0/],
  'a header of no bytes': [fileOf('', 4), /does not start with/],
  'a header that is a list': [fileOf('[1]', 0), /does not start with/],
  'a header that is no JSON': [fileOf('{"a":', 0), /not valid JSON.*byte 8/],
  'a header that is no UTF-8': [
    Buffer.concat([fileOf('', 0, 4n), Buffer.from([0x7b, 0xff, 0xfe, 0x7d])]),
    /not valid JSON/,
  ],
  'a name that occurs twice': [
    fileOf('{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"\\u0061":{}}', 1),
    /"a" occurs twice.*byte 61/,
  ],
  'a field that occurs twice': [fileOf('{"a":{"dtype":"I8","dtype":"F32"}}', 0), /"dtype" occurs twice/],
  'an unknown dtype': [
    fileOf({ a: { dtype: 'F4', shape: [1], data_offsets: [0, 1] } }, 1),
    /tensor "a".*"F4".*byte 9/,
  ],
  'a block format': [fileOf({ a: { dtype: 'Q8_0', shape: [32], data_offsets: [0, 34] } }, 34), /"Q8_0"/],
  'an entry that is no object': [fileOf({ a: null }, 0), /tensor "a": its entry.*byte 9/],
  'a shape that is no list': [fileOf({ a: f32(4, 0, 16) }, 16), /shape is not a list/],
  'a negative length': [fileOf({ a: f32([-1, -4], 0, 16) }, 16), /tensor "a": shape \[-1,-4\]/],
  'a fractional length': [fileOf({ a: f32([0.5, 8], 0, 16) }, 16), /shape \[0\.5,8\]/],
  'a length that is text': [fileOf({ a: f32(['4'], 0, 16) }, 16), /shape \["4"\]/],
  'a shape that overflows': [fileOf({ a: f32([2 ** 40, 2 ** 40, 0], 0, 0) }, 0), /overflows/],
  'one offset': [fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}', 4), /data_offsets \[4\]/],
  'a negative offset': [fileOf({ a: f32([1], -4, 0) }, 4), /data_offsets \[-4,0\]/],
  'offsets that run backwards': [fileOf({ a: f32([1], 4, 0) }, 4), /span -4 bytes/],
  'a size that differs from dtype times shape': [fileOf({ a: f32([3], 0, 8) }, 8), /span 8 bytes.*takes 12/],
  'a tensor beyond the file': [fileOf({ a: f32([4], 0, 16) }, 15), /tensor "a" ends at byte 79.*byte 78/],
  'two tensors that share bytes': [
    fileOf({ a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12),
    /tensor "b" starts at byte \d+, inside/,
  ],
  'two tensors on the same bytes': [fileOf({ a: f32([2], 0, 8), b: f32([2], 0, 8) }, 8), /tensor "b" starts/],
  'a hole between tensors': [
    fileOf({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12),
    /tensor "b" starts at byte \d+, but/,
  ],
  'a hole before the first tensor': [fileOf({ a: f32([1], 4, 8) }, 8), /tensor "a" starts at byte/],
  'bytes behind the last tensor': [fileOf({ a: f32([1], 0, 4) }, 9), /the last tensor ends at byte/],
  'metadata that is no text': [fileOf({ __metadata__: { a: 1 } }, 0), /__metadata__ holds "a"/],
}

describe('a safetensors file is refused for', () => {
  test.each(Object.keys(refused))('%s', (what) => {
    using folder = new TemporaryFolder()
    const [bytes, says] = refused[what]!
    writeFileSync(folder.file('m.safetensors'), bytes)
    const refusal = refusalOf(() => openSafetensors(folder.file('m.safetensors')))
    expect(refusal).toMatch(says)
    expect(refusal).toContain('m.safetensors')
  })

  test('being missing, or a folder', () => {
    using folder = new TemporaryFolder()
    expect(refusalOf(() => openSafetensors(folder.file('none')))).toContain('does not exist')
    expect(refusalOf(() => openSafetensors(folder.path))).toContain('not a regular file')
  })
})

test('a name with escapes, quotes and braces is read as it was written', () => {
  using folder = new TemporaryFolder()
  const names = ['a"b', 'c\\', '{"d":[', '한글', '__proto__', 'constructor', '\u0001']
  const path = folder.file('m.safetensors')
  writeSafetensors(
    path,
    names.map((name) => ({ name, dtype: 'I8', shape: [1], data: new Uint8Array(1) })),
  )
  using source = openSafetensors(path)
  expect(source.names().sort()).toEqual(names.sort())
})

test.each(['stories260K', 'babyllama-char-1M'])(
  'rewriting %s as Hugging Face saved it gives the same bytes',
  (model) => {
    const original = sharedData('models', model, 'hf', 'model.safetensors')
    if (original === undefined) return
    using folder = new TemporaryFolder()
    using source = openSafetensors(original)
    // Backwards, so that the order in the file is the writer's doing.
    const tensors = source
      .names()
      .reverse()
      .map((name) => source.info(name)!)
      .map((info) => ({ ...info, data: () => piecesOf(source, info, 1000) }))
    writeSafetensors(folder.file('copy'), tensors, Object.fromEntries(source.metadata))
    expect(readFileSync(folder.file('copy')).equals(readFileSync(original))).toBe(true)
  },
)

test('tensors are laid out by dtype as the official library ranks it, then by name in byte order', () => {
  using folder = new TemporaryFolder()
  const make = (name: string, dtype: 'F32' | 'F16' | 'BF16' | 'I64' | 'F64', bytes: number) =>
    ({ name, dtype, shape: [1], data: new Uint8Array(bytes) }) as const
  writeSafetensors(folder.file('m'), [
    make('z', 'F16', 2),
    make('y', 'BF16', 2),
    make('\u{1F600}', 'F32', 4),
    make('\uFF5E', 'F32', 4),
    make('x', 'F64', 8),
    make('w', 'I64', 8),
  ])
  using source = openSafetensors(folder.file('m'))
  expect(source.names()).toEqual(['w', 'x', '\uFF5E', '\u{1F600}', 'y', 'z'])
  expect(Number(readFileSync(folder.file('m')).readBigUInt64LE(0)) % 8).toBe(0)
})

test('a tensor whose data is shorter or longer than its shape is a broken promise and leaves no file', () => {
  using folder = new TemporaryFolder()
  for (const bytes of [3, 5]) {
    const tensor = { name: 'a', dtype: 'F32', shape: [1], data: new Uint8Array(bytes) } as const
    expect(() => writeSafetensors(folder.file('m'), [tensor])).toThrow(AssertionError)
  }
  expect(refusalOf(() => openSafetensors(folder.file('m')))).toContain('does not exist')
})

describe('an index of shards', () => {
  function indexed(folder: TemporaryFolder, weightMap: unknown): () => unknown {
    const tensor = { name: 'a', dtype: 'I8', shape: [1], data: new Uint8Array(1) } as const
    mkdirSync(folder.file('model'), { recursive: true })
    writeSafetensors(folder.file('model/one.safetensors'), [tensor])
    writeSafetensors(folder.file('outside.safetensors'), [tensor])
    const text = typeof weightMap === 'string' ? weightMap : JSON.stringify({ weight_map: weightMap })
    writeFileSync(folder.file('model/model.safetensors.index.json'), text)
    return () => openShardedSafetensors(folder.file('model'))
  }

  test.each([
    '../outside.safetensors',
    'x/../../outside.safetensors',
    '/etc/passwd',
    '..',
    '',
    'a\\b',
    'a\0b',
  ])('that points to %j, outside the folder, is refused', (shard) => {
    using folder = new TemporaryFolder()
    expect(refusalOf(indexed(folder, { a: shard }))).toMatch(/tensor "a" points to .*byte 15/)
  })

  test('that names a shard which is missing, or lacks the tensor, is refused', () => {
    using folder = new TemporaryFolder()
    expect(refusalOf(indexed(folder, { a: 'two.safetensors' }))).toMatch(/tensor "a".*missing.*byte 15/)
    expect(refusalOf(indexed(folder, { a: 'one.safetensors', b: 'one.safetensors' }))).toMatch(
      /tensor "b" should be in/,
    )
  })

  test('that is no object, has no weight map, repeats a tensor or gives it no file name is refused', () => {
    using folder = new TemporaryFolder()
    expect(refusalOf(indexed(folder, '[]'))).toContain('not a JSON object')
    expect(refusalOf(indexed(folder, '{}'))).toContain('weight_map')
    expect(refusalOf(indexed(folder, { a: 1 }))).toContain('not text')
    const twice = '{"weight_map":{"a":"one.safetensors","a":"one.safetensors"}}'
    expect(refusalOf(indexed(folder, twice))).toMatch(/"a" occurs twice.*byte 37/)
  })

  test('may lead through links, as in the Hugging Face cache', () => {
    using folder = new TemporaryFolder()
    const open = indexed(folder, { a: 'linked.safetensors' })
    symlinkSync(folder.file('outside.safetensors'), folder.file('model/linked.safetensors'))
    using source = open() as ReturnType<typeof openShardedSafetensors>
    expect(source.names()).toEqual(['a'])
  })
})
