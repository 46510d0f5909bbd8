/**
 * Factors of adapters as codes of 8 bits, in the layout that native/adapter_coded.h reads: A with a scale per rank and 256
 * inputs, B with a scale per output. A scale is the largest magnitude by 127 in bfloat16, rounded up, so that factors may be
 * as small as they like; it is NaN where a factor is no number.
 */
/** Outputs of a panel, and ranks that are lowered together. */
const lanes = 16
/** Inputs of A that share a scale. */
const blockInputs = 256
/** Scales of two blocks of inputs of 16 ranks, and of two panels of outputs. */
const scalesBytes = 64
const notANumber = 0x7fc0

/** One member of a packed product: a is [rank, inputs], b [outputs, rank]. */
interface CodedMember {
  factors: { inputs: number; outputs: number; rank: number; a: Float32Array; b: Float32Array }
  /** Up to a multiple of 4, and how many those of members before it have. */
  rank: number
  firstRank: number
  /** Where B begins, in bytes. */
  b: number
}

export const codeSizes = {
  step: 4,
  inputsOf: (inputs: number) => upTo(32, inputs),
  aBytes: (ranks: number, inputs: number) => (ranks / lanes) * rankPanelBytes(inputs),
  bBytes: (panels: number, rank: number) => Math.ceil(panels / 2) * pairBytes(rank),
} as const

export function upTo(step: number, count: number): number {
  return Math.ceil(count / step) * step
}

/** As panelBytes of q8 in native/packed.h. */
function rankPanelBytes(inputs: number): number {
  return Math.ceil(inputs / (2 * blockInputs)) * scalesBytes + inputs * lanes
}

function pairBytes(rank: number): number {
  return scalesBytes + 2 * rank * lanes
}

/** Writes one member: A from `start` on, whose rows have `inputs` places, B where it was placed. */
export function placeCodes(
  bytes: Uint8Array,
  start: number,
  { factors, rank: ranks, firstRank, b }: CodedMember,
  inputs: number,
): void {
  const { rank, outputs } = factors
  const view = new DataView(bytes.buffer)
  const two = scalesBytes + 2 * blockInputs * lanes
  for (let r = 0; r < rank; r++) {
    const lane = (firstRank + r) % lanes
    const panel = start + Math.floor((firstRank + r) / lanes) * rankPanelBytes(inputs)
    for (let k = 0; k < factors.inputs; k += blockInputs) {
      const [pair, half] = [Math.floor(k / (2 * blockInputs)), (k / blockInputs) % 2]
      const group = factors.a.subarray(
        r * factors.inputs + k,
        r * factors.inputs + Math.min(k + blockInputs, factors.inputs),
      )
      const codes = panel + pair * two + scalesBytes + half * blockInputs * lanes + 4 * lane
      view.setUint16(panel + pair * two + (half * lanes + lane) * 2, writeCodes(group, view, codes), true)
    }
  }
  for (let o = 0; o < outputs; o++) {
    const [panel, lane] = [Math.floor(o / lanes), o % lanes]
    const pair = b + Math.floor(panel / 2) * pairBytes(ranks)
    const row = factors.b.subarray(o * rank, (o + 1) * rank)
    const codes = pair + scalesBytes + (panel % 2) * ranks * lanes + 4 * lane
    view.setUint16(pair + ((panel % 2) * lanes + lane) * 2, writeCodes(row, view, codes), true)
  }
}

/** Writes codes of numbers that share a scale, four side by side in each 16 lanes; returns the scale in bfloat16. */
function writeCodes(numbers: Float32Array, view: DataView, at: number): number {
  let most = 0
  for (const x of numbers) most = Math.max(most, Math.abs(x))
  if (!Number.isFinite(most)) return notANumber
  const scale = bfloatAbove(most / 127)
  if (scale === 0) return 0
  const step = floatOf(scale)
  for (let i = 0; i < numbers.length; i++)
    view.setInt8(at + (i >> 2) * 4 * lanes + (i & 3), Math.round(numbers[i]! / step))
  return scale
}

const floats = new Float32Array(1)
const words = new Uint32Array(floats.buffer)

function bfloatAbove(x: number): number {
  floats[0] = x
  return (words[0]! + 0xffff) >>> 16
}

function floatOf(bfloat: number): number {
  words[0] = bfloat << 16
  return floats[0]!
}
