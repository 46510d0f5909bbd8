/**
 * A step in one line: SHA-256 over its samples, its loss and the length of every parameter's gradient, bit for bit.
 * Whoever computes the step again from the same weights gets the same; another bit in any weight shows here.
 */
import { createHash } from 'node:crypto'
import type { Batch } from './batch.ts'

export function stepHash(batches: readonly Batch[], loss: number, norms: readonly number[]): string {
  const hash = createHash('sha256')
  for (const { ids, targets, weights } of batches)
    for (const { buffer, byteOffset, byteLength } of [ids, targets, weights])
      hash.update(new Uint8Array(buffer, byteOffset, byteLength))
  hash.update(new Uint8Array(Float64Array.of(loss, ...norms).buffer))
  return hash.digest('hex')
}
