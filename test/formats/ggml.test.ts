import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { bytesOf, type DType, dtypes } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { dequantize, f32ToBf16, f32ToF16, quantize } from '../../src/formats/convert.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { TemporaryFolder } from './folders.ts'

/** Our formats against ggml itself, called directly: it is the definition of its block layouts. */

const folder = fileURLToPath(
  new URL('../../node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/', import.meta.url),
)
const path = join(folder, 'libggml-base.so')
const present = process.platform === 'linux' && process.arch === 'x64' && existsSync(path)
if (!present) console.warn('skipped: libggml-base.so for linux-x64 is not installed')

let loaded: import('koffi').LibraryHandle | undefined
/** Loaded once and kept: ggml asserts in its start-up code when it is unloaded and loaded again. */
function load(): import('koffi').LibraryHandle {
  loaded ??= (createRequire(import.meta.url)('koffi') as typeof import('koffi')).load(path)
  return loaded
}

const random = new Random(11)
const elements = 256 * 64
/** Normal numbers with a few outliers, zeros and a constant block: what real weights have and what they do not. */
const values = Float32Array.from({ length: elements }, (_, i) =>
  i < 256 ? 0 : i < 512 ? 0.25 : random.normal() * (random.uniform() < 0.01 ? 50 : 0.3),
)

function ggmlQuantized(dtype: DType): Uint8Array {
  const chunk = load().func(
    'size_t ggml_quantize_chunk(int type, const float *src, void *dst, int64_t start, int64_t rows, int64_t row, const float *weights)',
  )
  const bytes = new Uint8Array(bytesOf(dtype, elements))
  expect(Number(chunk(dtypes[dtype].ggml, values, bytes, 0, elements / 256, 256, null))).toBe(bytes.length)
  return bytes
}

function ggmlDequantized(dtype: DType, bytes: Uint8Array): Float32Array {
  const name = `dequantize_row_${dtype === 'MXFP4' ? 'mxfp4' : dtype.replace('Q', 'q')}`
  const row = load().func(`void ${name}(const void *bytes, _Out_ float *values, int64_t count)`)
  const decoded = new Float32Array((bytes.length / dtypes[dtype].bytes) * dtypes[dtype].block)
  row(bytes, decoded, decoded.length)
  return decoded
}

const blockTypes = (Object.keys(dtypes) as DType[]).filter((dtype) => dtypes[dtype].block > 1)

describe.runIf(present)('as ggml does it', () => {
  test.each(blockTypes)('%s decodes to the same bits, for weights that ggml encoded', (dtype) => {
    const bytes = ggmlQuantized(dtype)
    const theirs = ggmlDequantized(dtype, bytes)
    expect(Buffer.from(dequantize(dtype, bytes).buffer).equals(Buffer.from(theirs.buffer))).toBe(true)
    // Guards against both being nothing.
    expect(theirs.some((value) => Math.abs(value) > 1)).toBe(true)
  })

  test.each(blockTypes)('%s decodes to the same numbers, for bytes that nobody encoded', (dtype) => {
    const bytes = Uint8Array.from({ length: dtypes[dtype].bytes * 50 }, () => random.integer(256))
    expect(dequantize(dtype, bytes)).toEqual(ggmlDequantized(dtype, bytes))
  })

  test.each(['Q8_0', 'Q4_0'] as const)('%s encodes to the same bytes', (dtype) => {
    expect(Buffer.from(quantize(dtype, values)).equals(Buffer.from(ggmlQuantized(dtype)))).toBe(true)
  })

  test('floats round to the same halves and bfloat16s, over the whole range', () => {
    const library = load()
    const toHalf = library.func('uint16_t ggml_fp32_to_fp16(float value)')
    const toBrain = library.func('uint16_t ggml_fp32_to_bf16(float value)')
    const bits = new Uint32Array(1)
    const float = new Float32Array(bits.buffer)
    for (let round = 0; round < 20_000; round++) {
      bits[0] = random.integer(2 ** 32)
      if (Number.isNaN(float[0])) continue
      expect(f32ToF16(float[0]!)).toBe(toHalf(float[0]))
      expect(f32ToBf16(float[0]!)).toBe(toBrain(float[0]))
    }
  })

  test('its reader opens a file that we wrote and finds the tensors where we put them', () => {
    using temporary = new TemporaryFolder()
    const file = temporary.file('m.gguf')
    writeGguf(
      file,
      new Map([
        ['general.architecture', { type: 'string', value: 'llama' }],
        ['tokenizer.ggml.tokens', { type: 'array', items: 'string', value: ['a', 'b'] }],
      ]),
      [
        { name: 'first', dtype: 'F32', shape: [3], data: new Uint8Array(12) },
        { name: 'second', dtype: 'Q8_0', shape: [2, 64], data: new Uint8Array(136) },
      ],
    )
    const library = load()
    const open = library.func('void *gguf_init_from_file(const char *path, bool no_alloc, void *context)')
    const context = open(file, true, null)
    expect(context).not.toBeNull()
    const number = (declaration: string, ...rest: unknown[]) =>
      Number(library.func(declaration)(context, ...rest))
    expect(number('int64_t gguf_get_n_tensors(void *context)')).toBe(2)
    expect(number('int64_t gguf_get_n_kv(void *context)')).toBe(2)
    const offset = 'size_t gguf_get_tensor_offset(void *context, int64_t id)'
    expect([number(offset, 0), number(offset, 1)]).toEqual([0, 32])
    library.func('void gguf_free(void *context)')(context)
  })
})
