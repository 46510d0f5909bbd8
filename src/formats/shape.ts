import { bytesOf, type DType, dtypes } from '../base/dtype.ts'

/** Either the encoded size, or the half sentence that says why such a tensor cannot exist. */
export type EncodedSize = { ok: true; bytes: number } | { ok: false; why: string }

/** The size of a tensor whose dtype and shape (outermost first) came from a file and may be anything. */
export function encodedSize(dtype: DType, shape: readonly unknown[]): EncodedSize {
  let elements = 1
  for (const length of shape) {
    if (typeof length !== 'number' || !Number.isSafeInteger(length) || length < 0)
      return {
        ok: false,
        why: `shape ${show(shape)} holds a length that is not a whole number from 0 to 2^53`,
      }
    elements *= length
    if (!Number.isSafeInteger(elements * dtypes[dtype].bytes))
      return { ok: false, why: `shape ${show(shape)} overflows: it has more elements than any file can hold` }
  }
  const row = shape.at(-1) ?? 1
  const { block } = dtypes[dtype]
  if (typeof row === 'number' && row % block !== 0)
    return {
      ok: false,
      why: `rows of ${row} elements do not split into the blocks of ${block} that ${dtype} needs`,
    }
  return { ok: true, bytes: bytesOf(dtype, elements) }
}

/** A shape as messages show it; a hostile one is cut short. */
export function show(shape: unknown): string {
  const text = JSON.stringify(shape) ?? String(shape)
  return text.length > 80 ? `${text.slice(0, 80)}...` : text
}
