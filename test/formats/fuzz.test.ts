import { readFileSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { UserError } from '../../src/base/errors.ts'
import { Random } from '../../src/base/random.ts'
import { openGguf } from '../../src/formats/gguf.ts'
import { configFromGguf } from '../../src/formats/gguf-config.ts'
import type { GgufEntry } from '../../src/formats/gguf-values.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { openShardedSafetensors } from '../../src/formats/model-folder.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import type { TensorSource, TensorToWrite } from '../../src/formats/source.ts'
import { bytesOfTensor, TemporaryFolder } from './folders.ts'

/** Damage of every kind that a seed picks: the outcome is a model or a UserError, nothing else. */

const tensors: TensorToWrite[] = [
  { name: 'token_embd.weight', dtype: 'F32', shape: [4, 8], data: new Uint8Array(128) },
  { name: 'rope_freqs.weight', dtype: 'F32', shape: [2], data: new Uint8Array(8) },
  { name: 'blk.0.attn_q.weight', dtype: 'I8', shape: [3, 3], data: new Uint8Array(9) },
]
const number = (value: number): GgufEntry => ({ type: 'uint32', value })
const metadata = new Map<string, GgufEntry>([
  ['general.architecture', { type: 'string', value: 'llama' }],
  ['llama.embedding_length', number(8)],
  ['llama.block_count', number(1)],
  ['llama.feed_forward_length', number(16)],
  ['llama.attention.head_count', number(2)],
  ['llama.context_length', number(32)],
  ['llama.attention.layer_norm_rms_epsilon', { type: 'float32', value: 1e-5 }],
  ['tokenizer.ggml.tokens', { type: 'array', items: 'string', value: ['a', 'b', 'c', 'd'] }],
  ['tokenizer.ggml.scores', { type: 'array', items: 'float32', value: [0, 1, 2, 3] }],
])

function damage(bytes: Buffer, random: Random): Buffer {
  let damaged: Buffer = Buffer.from(bytes)
  for (let change = random.integer(4); change >= 0; change--) {
    const at = random.integer(damaged.length)
    const kind = random.integer(5)
    if (kind === 0) damaged[at] = damaged[at]! ^ (1 << random.integer(8))
    else if (kind === 1) damaged[at] = random.integer(256)
    else if (kind === 2)
      damaged.fill(random.integer(2) * 255, at, Math.min(damaged.length, at + 1 + random.integer(8)))
    else if (kind === 3) damaged = damaged.subarray(0, Math.max(1, at))
    else damaged = Buffer.concat([damaged.subarray(0, at), damaged.subarray(random.integer(damaged.length))])
    if (damaged.length === 0) damaged = Buffer.alloc(1)
  }
  return damaged
}

function survives(
  path: string,
  open: () => TensorSource,
  seed: number,
  read: (source: TensorSource) => void,
): boolean {
  try {
    using source = open()
    read(source)
    return true
  } catch (error) {
    if (!(error instanceof UserError))
      throw new Error(`${path}, seed ${seed}: ${error instanceof Error ? error.stack : String(error)}`)
    return false
  }
}

function fuzz(
  path: string,
  seeds: number,
  open: () => TensorSource,
  read: (source: TensorSource) => void = readAll,
) {
  const whole = readFileSync(path)
  let parsed = 0
  for (let seed = 0; seed < seeds; seed++) {
    writeFileSync(path, damage(whole, new Random(seed)))
    if (survives(path, open, seed, read)) parsed++
  }
  // Both outcomes must occur, or the damage is too weak or too strong to show anything.
  expect(parsed).toBeGreaterThan(0)
  expect(parsed).toBeLessThan(seeds)
}

function readAll(source: TensorSource): void {
  for (const name of source.names()) bytesOfTensor(source, name)
}

test('a damaged safetensors file opens or is refused, for 1,000 seeds', () => {
  using folder = new TemporaryFolder()
  const path = folder.file('m.safetensors')
  writeSafetensors(path, tensors, { format: 'pt' })
  fuzz(path, 1000, () => openSafetensors(path))
})

test('a damaged index opens or is refused, for 500 seeds', () => {
  using folder = new TemporaryFolder()
  const path = folder.file('model.safetensors.index.json')
  writeSafetensors(folder.file('model-00001.safetensors'), tensors)
  const weightMap = Object.fromEntries(tensors.map(({ name }) => [name, 'model-00001.safetensors']))
  writeFileSync(path, JSON.stringify({ metadata: { total_size: 145 }, weight_map: weightMap }))
  fuzz(path, 500, () => openShardedSafetensors(folder.path))
})

test('a damaged GGUF file opens and gives a config, or is refused, for 1,500 seeds', () => {
  using folder = new TemporaryFolder()
  const path = folder.file('m.gguf')
  writeGguf(path, metadata, tensors)
  fuzz(
    path,
    1500,
    () => openGguf(path),
    (source) => {
      readAll(source)
      configFromGguf(source as ReturnType<typeof openGguf>)
    },
  )
})
