/**
 * Low-rank changes of packed products in the layout that the kernels read (native/adapter.h): one piece of
 * memory per adapter and packed product, and per product a table of these by slot.
 *
 * K inputs (even), R ranks of all members of a product (up to whole 16), r ranks of one member (even); where K or r were
 * odd there is a zero more. Numbers in bfloat16 lie in pairs of inputs, and of ranks.
 */
import { assert } from '../base/assert.ts'
import type { ProductGroup } from './architecture.ts'

/** What an adapter adds to one product: scale * x aᵀ bᵀ (LoRA, Hu 2021); the sum may get a factor per output. */
export interface AdapterFactors {
  inputs: number
  outputs: number
  rank: number
  scale: number
  /** [rank, inputs] */
  a: Float32Array
  /** [outputs, rank] */
  b: Float32Array
  /** [outputs]: what the sum of both products is multiplied by, before a bias (DoRA, Liu 2024). */
  factor?: Float32Array
}

/** Where the members of a packed product lie (see PackedProduct). */
export interface MemberPlaces {
  group: ProductGroup
  inputs: number
  members: readonly { name: string; first: number; outputs: number }[]
}

export type FactorFormat = 'F32' | 'BF16'

const headerBytes = 32
const memberBytes = 40
/** Outputs of a panel, and ranks that are lowered together. */
const lanes = 16

interface Placed {
  factors: AdapterFactors
  firstPanel: number
  step: number
  panels: number
  rank: number
  firstRank: number
  /** Where B begins, in numbers behind the first of A. */
  b: number
  /** Where the factors of outputs begin, in bytes from the adapter's first; 0 for none. */
  factor: number
}

/** Lays out what `layers` change of a packed product; undefined when they leave it alone. */
export function packAdapter(
  places: MemberPlaces,
  layers: ReadonlyMap<string, AdapterFactors>,
  format: FactorFormat,
): Uint8Array | undefined {
  const placed: Placed[] = []
  let ranks = 0
  for (const [index, { name, first, outputs }] of places.members.entries()) {
    const factors = layers.get(name)
    if (factors === undefined) continue
    assert(factors.inputs === places.inputs && factors.outputs === outputs, `the adapter of ${name} fits it`)
    const gated = places.group.kind === 'gated'
    placed.push({
      factors,
      firstPanel: gated ? index : first / lanes,
      step: gated ? 2 : 1,
      panels: Math.ceil(outputs / lanes),
      rank: even(factors.rank),
      firstRank: ranks,
      b: 0,
      factor: 0,
    })
    ranks += even(factors.rank)
  }
  if (placed.length === 0) return undefined
  ranks = Math.ceil(ranks / lanes) * lanes
  const inputs = even(places.inputs)
  let count = ranks * inputs
  for (const one of placed) {
    one.b = count
    count += one.panels * one.rank * lanes
  }
  const numberBytes = format === 'F32' ? 4 : 2
  const start = Math.ceil((headerBytes + memberBytes * placed.length) / 64) * 64
  let end = Math.ceil((start + count * numberBytes) / 64) * 64
  for (const one of placed) {
    if (one.factors.factor === undefined) continue
    one.factor = end
    end += one.panels * lanes * 4
  }
  const bytes = new Uint8Array(end)
  writeHeader(new DataView(bytes.buffer), placed, ranks, inputs, start, numberBytes)
  const numbers = new Float32Array(count)
  for (const one of placed) placeFactors(numbers, one, inputs, format === 'BF16' ? 2 : 1)
  if (format === 'F32') new Float32Array(bytes.buffer, start, count).set(numbers)
  else roundToBfloat(numbers, new Uint16Array(bytes.buffer, start, count))
  for (const { factors, factor } of placed)
    if (factors.factor !== undefined) new Float32Array(bytes.buffer, factor).set(factors.factor)
  return bytes
}

function writeHeader(
  view: DataView,
  placed: readonly Placed[],
  ranks: number,
  inputs: number,
  start: number,
  numberBytes: number,
): void {
  const words = [numberBytes === 2 ? 1 : 0, ranks, placed.length, inputs]
  words.forEach((word, i) => {
    view.setInt32(4 * i, word, true)
  })
  view.setBigInt64(16, BigInt(start), true)
  for (const [index, { firstPanel, step, panels, rank, firstRank, b, factor, factors }] of placed.entries()) {
    const at = headerBytes + memberBytes * index
    for (const [i, word] of [firstPanel, step, panels, rank, firstRank].entries())
      view.setInt32(at + 4 * i, word, true)
    view.setFloat32(at + 20, factors.scale, true)
    view.setBigInt64(at + 24, BigInt(start + b * numberBytes), true)
    view.setBigInt64(at + 32, BigInt(factor), true)
  }
}

/** `together`: how many inputs of A, and ranks of B, lie side by side. */
function placeFactors(
  into: Float32Array,
  { factors, rank: ranks, firstRank, b }: Placed,
  inputs: number,
  together: number,
): void {
  const { rank, outputs } = factors
  const at = (k: number, lane: number) =>
    (Math.floor(k / together) * lanes + lane) * together + (k % together)
  for (let r = 0; r < rank; r++) {
    const lane = firstRank + r
    const from = Math.floor(lane / lanes) * lanes * inputs
    const row = factors.a.subarray(r * factors.inputs, (r + 1) * factors.inputs)
    for (let k = 0; k < row.length; k++) into[from + at(k, lane % lanes)] = row[k]!
  }
  for (let o = 0; o < outputs; o++) {
    const from = b + Math.floor(o / lanes) * ranks * lanes
    for (let r = 0; r < rank; r++) into[from + at(r, o % lanes)] = factors.b[o * rank + r]!
  }
}

function even(count: number): number {
  return count + (count % 2)
}

/** Nearest, ties to even; factors are finite. */
function roundToBfloat(from: Float32Array, into: Uint16Array): void {
  const bits = new Uint32Array(from.buffer, from.byteOffset, from.length)
  for (let i = 0; i < from.length; i++) {
    const word = bits[i]!
    into[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
}
