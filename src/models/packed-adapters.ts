/**
 * Low-rank changes of packed products in the layout that the kernels read (native/adapter.h): one piece of
 * memory per adapter and packed product, and per product a table of these by slot.
 *
 * K inputs, R ranks of all members of a product (up to whole 16), r ranks of one member. K and r are even, of codes
 * multiples of 32 and 4: where they were not there are zeros more. Numbers in bfloat16 lie in pairs of inputs, and of ranks.
 */
import { assert } from '../base/assert.ts'
import { codeSizes, placeCodes, upTo } from './adapter-codes.ts'
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

/** I8: codes of 8 bits, for products whose weights are codes. */
export type FactorFormat = 'F32' | 'BF16' | 'I8'

const headerBytes = 32
const memberBytes = 40
/** Outputs of a panel, and ranks that are lowered together. */
const lanes = 16

/** As in native/adapter.h. */
const formatWords: Readonly<Record<FactorFormat, number>> = { F32: 0, BF16: 1, I8: 2 }

interface Placed {
  factors: AdapterFactors
  /** What the lowered ranks are multiplied by for this member; those of floats are shared by halves, and multiplied once. */
  scale: number
  firstPanel: number
  step: number
  panels: number
  rank: number
  firstRank: number
  /** Where B begins, in bytes from the adapter's first. */
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
  const { step, inputsOf, aBytes, bBytes } = format === 'I8' ? codeSizes : numberSizes(format)
  const placed: Placed[] = []
  let ranks = 0
  for (const [index, { name, first, outputs }] of places.members.entries()) {
    const factors = layers.get(name)
    if (factors === undefined) continue
    assert(factors.inputs === places.inputs && factors.outputs === outputs, `the adapter of ${name} fits it`)
    const gated = places.group.kind === 'gated'
    const rank = upTo(step, factors.rank)
    const parts = gated && places.members.length === 1 ? halvesOf(factors) : [factors]
    for (const [part, own] of parts.entries()) {
      placed.push({
        factors: own,
        scale: part === 0 || format === 'I8' ? own.scale : 1,
        firstPanel: gated ? index + part : first / lanes,
        step: gated ? 2 : 1,
        panels: Math.ceil(own.outputs / lanes),
        rank,
        firstRank: ranks,
        b: 0,
        factor: 0,
      })
    }
    ranks += rank
  }
  if (placed.length === 0) return undefined
  ranks = upTo(lanes, ranks)
  const inputs = inputsOf(places.inputs)
  const start = upTo(64, headerBytes + memberBytes * placed.length)
  let end = start + aBytes(ranks, inputs)
  for (const one of placed) {
    one.b = end
    end += bBytes(one.panels, one.rank)
  }
  const factorsEnd = end
  end = upTo(64, end)
  for (const one of placed) {
    if (one.factors.factor === undefined) continue
    one.factor = end
    end += one.panels * lanes * 4
  }
  const bytes = new Uint8Array(end)
  writeHeader(new DataView(bytes.buffer), placed, ranks, inputs, start, format)
  if (format === 'I8') for (const one of placed) placeCodes(bytes, start, one, inputs)
  else placeNumbers(bytes, [start, factorsEnd], placed, inputs, format)
  for (const { factors, factor } of placed)
    if (factors.factor !== undefined) new Float32Array(bytes.buffer, factor).set(factors.factor)
  return bytes
}

/** What changes gate and what changes up, of a product that is both: one A, and half of B each. */
function halvesOf(whole: AdapterFactors): AdapterFactors[] {
  const outputs = whole.outputs / 2
  return [0, 1].map((half) => {
    const rows = (from: Float32Array, width: number) =>
      from.subarray(half * outputs * width, (half + 1) * outputs * width)
    const factor = whole.factor && rows(whole.factor, 1)
    return { ...whole, outputs, b: rows(whole.b, whole.rank), ...(factor && { factor }) }
  })
}

function writeHeader(
  view: DataView,
  placed: readonly Placed[],
  ranks: number,
  inputs: number,
  start: number,
  format: FactorFormat,
): void {
  const words = [formatWords[format], ranks, placed.length, inputs]
  words.forEach((word, i) => {
    view.setInt32(4 * i, word, true)
  })
  view.setBigInt64(16, BigInt(start), true)
  for (const [index, { firstPanel, step, panels, rank, firstRank, b, factor, scale }] of placed.entries()) {
    const at = headerBytes + memberBytes * index
    for (const [i, word] of [firstPanel, step, panels, rank, firstRank].entries())
      view.setInt32(at + 4 * i, word, true)
    view.setFloat32(at + 20, scale, true)
    view.setBigInt64(at + 24, BigInt(b), true)
    view.setBigInt64(at + 32, BigInt(factor), true)
  }
}

/** What ranks of a member are rounded up to, and how much factors take. */
function numberSizes(format: 'F32' | 'BF16') {
  const bytes = format === 'F32' ? 4 : 2
  return {
    step: 2,
    inputsOf: (inputs: number) => upTo(2, inputs),
    aBytes: (ranks: number, inputs: number) => ranks * inputs * bytes,
    bBytes: (panels: number, rank: number) => panels * lanes * rank * bytes,
  }
}

/** Numbers as they are or in bfloat16, from `start` to `end`. */
function placeNumbers(
  bytes: Uint8Array,
  [start, end]: readonly [number, number],
  placed: readonly Placed[],
  inputs: number,
  format: 'F32' | 'BF16',
): void {
  const numberBytes = format === 'F32' ? 4 : 2
  const numbers = new Float32Array((end - start) / numberBytes)
  for (const one of placed) placeFactors(numbers, one, (one.b - start) / numberBytes, inputs, 4 / numberBytes)
  if (format === 'F32') new Float32Array(bytes.buffer, start, numbers.length).set(numbers)
  else roundToBfloat(numbers, new Uint16Array(bytes.buffer, start, numbers.length))
}

/** B from `b` on; `together`: how many inputs of A, and ranks of B, lie side by side. */
function placeFactors(
  into: Float32Array,
  { factors, rank: ranks, firstRank }: Placed,
  b: number,
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

/** Nearest, ties to even; factors are finite. */
function roundToBfloat(from: Float32Array, into: Uint16Array): void {
  const bits = new Uint32Array(from.buffer, from.byteOffset, from.length)
  for (let i = 0; i < from.length; i++) {
    const word = bits[i]!
    into[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
}
