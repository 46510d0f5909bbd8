import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { AssertionError } from '../../src/base/assert.ts'
import { openGguf } from '../../src/formats/gguf.ts'
import type { GgufEntry } from '../../src/formats/gguf-values.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { openModelFolder } from '../../src/formats/model-folder.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import { piecesOf, type TensorSource, type TensorToWrite } from '../../src/formats/source.ts'
import { bytesOfTensor, refusalOf, TemporaryFolder } from './folders.ts'

/** One suite for everything that is a TensorSource: each maker writes the same tensors in its own layout. */

const tensors: TensorToWrite[] = [
  { name: 'a.weight', dtype: 'F32', shape: [3, 4], data: counting(48) },
  { name: 'b.weight', dtype: 'BF16', shape: [5], data: counting(10) },
  { name: 'c.weight', dtype: 'I8', shape: [2, 1, 3], data: counting(6) },
  { name: 'empty', dtype: 'F32', shape: [0, 7], data: counting(0) },
  { name: 'scalar', dtype: 'F64', shape: [], data: counting(8) },
]

function counting(bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, index) => index + 1)
}

const makers: Record<string, (folder: TemporaryFolder) => { source: TensorSource; shrinks: string }> = {
  'one safetensors file': (folder) => {
    const shrinks = folder.file('model.safetensors')
    writeSafetensors(shrinks, tensors)
    return { source: openSafetensors(shrinks), shrinks }
  },
  'a sharded safetensors folder': (folder) => {
    const weightMap = Object.fromEntries(
      tensors.map(({ name }, index) => [name, `shard-${index % 2}.safetensors`]),
    )
    for (const part of [0, 1])
      writeSafetensors(
        folder.file(`shard-${part}.safetensors`),
        tensors.filter((_, index) => index % 2 === part),
      )
    writeFileSync(folder.file('model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }))
    return { source: openModelFolder(folder.path), shrinks: folder.file('shard-0.safetensors') }
  },
  'one GGUF file': (folder) => {
    const shrinks = folder.file('model.gguf')
    writeGguf(shrinks, new Map(), tensors)
    return { source: openGguf(shrinks), shrinks }
  },
  'a split GGUF model': (folder) => {
    for (const part of [0, 1]) {
      const entries: [string, GgufEntry][] = [
        ['split.no', { type: 'uint16', value: part }],
        ['split.count', { type: 'uint16', value: 2 }],
        ['split.tensors.count', { type: 'int32', value: tensors.length }],
      ]
      const share = tensors.filter((_, index) => index % 2 === part)
      writeGguf(folder.file(`m-0000${part + 1}-of-00002.gguf`), new Map(entries), share)
    }
    const shrinks = folder.file('m-00001-of-00002.gguf')
    return { source: openGguf(shrinks), shrinks }
  },
}

describe.each(Object.keys(makers))('%s', (kind) => {
  const make = makers[kind]!

  test('lists every tensor with its dtype, shape and size', () => {
    using folder = new TemporaryFolder()
    using source = make(folder).source
    expect(source.names().sort()).toEqual(tensors.map(({ name }) => name).sort())
    for (const { name, dtype, shape, data } of tensors)
      expect(source.info(name)).toEqual({ name, dtype, shape, bytes: (data as Uint8Array).length })
    expect(source.info('nothing')).toBeUndefined()
    expect(source.info('__proto__')).toBeUndefined()
  })

  test('gives back the bytes that were written, whole and from any offset', () => {
    using folder = new TemporaryFolder()
    using source = make(folder).source
    for (const { name, data } of tensors) expect(bytesOfTensor(source, name)).toEqual(data)
    const middle = new Uint8Array(5)
    source.read('a.weight', middle, 40)
    expect([...middle]).toEqual([41, 42, 43, 44, 45])
    const pieces = [...piecesOf(source, source.info('a.weight')!, 20)].map((piece) => piece.length)
    expect(pieces).toEqual([20, 20, 8])
  })

  test('treats an unknown name, a range outside the tensor and a closed file as broken promises', () => {
    using folder = new TemporaryFolder()
    const { source } = make(folder)
    expect(() => source.read('nothing', new Uint8Array(1))).toThrow(AssertionError)
    expect(() => source.read('b.weight', new Uint8Array(9), 2)).toThrow(AssertionError)
    source[Symbol.dispose]()
    source[Symbol.dispose]()
    expect(() => source.read('b.weight', new Uint8Array(1))).toThrow(AssertionError)
  })

  test('refuses a read from a file that shrank after it was opened, with the tensor and the byte', () => {
    using folder = new TemporaryFolder()
    const { source, shrinks } = make(folder)
    using _ = source
    truncateSync(shrinks, 10)
    expect(refusalOf(() => bytesOfTensor(source, 'a.weight'))).toMatch(/"a\.weight".*byte \d+/)
  })
})

test('a folder is read by its single file, by its index, or by its only safetensors file', () => {
  using folder = new TemporaryFolder()
  expect(refusalOf(() => openModelFolder(folder.path))).toContain('no .safetensors file')
  expect(refusalOf(() => openModelFolder(join(folder.path, 'missing')))).toContain('missing')
  writeSafetensors(folder.file('x.safetensors'), tensors.slice(0, 1))
  using only = openModelFolder(folder.path)
  expect(only.names()).toEqual(['a.weight'])
  writeSafetensors(folder.file('y.safetensors'), tensors.slice(1, 2))
  expect(refusalOf(() => openModelFolder(folder.path))).toContain('2 .safetensors files')
  writeSafetensors(folder.file('model.safetensors'), tensors.slice(1, 2))
  using single = openModelFolder(folder.path)
  expect(single.names()).toEqual(['b.weight'])
})
