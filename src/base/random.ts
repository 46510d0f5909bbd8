/**
 * Random numbers that are a pure function of (seed, counter): nothing to save, nothing to lose on a
 * resume, and the n-th number does not depend on who asked for the ones before it.
 *
 * The mixing is murmur3's 32-bit finaliser in a ladder over both arguments,
 * because BigInt is too slow on the token path.
 */
const scratch = new Uint32Array(2)

/** 64 mixed bits of (seed, counter) as [high, low]; the result is overwritten by the next call. */
function mix(seed: number, counter: number): Uint32Array {
  // Two rounds of a 32-bit finaliser (murmur3's fmix32) in a Feistel-like ladder over seed and counter halves.
  let high = (seed >>> 0) ^ Math.imul(Math.floor(seed / 4294967296) >>> 0, 0x9e3779b1)
  let low = (counter >>> 0) ^ Math.imul(Math.floor(counter / 4294967296) >>> 0, 0x85ebca77)
  for (let round = 0; round < 3; round++) {
    low = fmix32((low ^ (high + Math.imul(round + 1, 0x9e3779b1))) >>> 0)
    high = fmix32((high ^ (low + Math.imul(round + 1, 0x7f4a7c15))) >>> 0)
  }
  scratch[0] = high
  scratch[1] = low
  return scratch
}

function fmix32(value: number): number {
  let h = value
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/** A number in [0, 1) with 53 random bits, a pure function of its arguments (both non-negative integers). */
export function uniformAt(seed: number, counter: number): number {
  const bits = mix(seed, counter)
  return ((bits[0]! >>> 5) * 67108864 + (bits[1]! >>> 6)) / 9007199254740992
}

/** A seed derived from a seed and a label, so that independent streams never share numbers. */
export function deriveSeed(seed: number, label: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < label.length; i++) h = Math.imul(h ^ label.charCodeAt(i), 0x01000193)
  const bits = mix(seed, h >>> 0)
  return (bits[0]! & 0x1fffff) * 4294967296 + bits[1]!
}

/** A stream over {@link uniformAt}; `counter` is its whole state. */
export class Random {
  readonly seed: number
  counter: number

  constructor(seed: number, counter = 0) {
    this.seed = seed
    this.counter = counter
  }

  /** A number in [0, 1). */
  uniform(): number {
    return uniformAt(this.seed, this.counter++)
  }

  /** An integer in [0, below). */
  integer(below: number): number {
    return Math.floor(this.uniform() * below)
  }

  /** A standard normal number (Box and Muller 1958). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()))
    return radius * Math.cos(2 * Math.PI * this.uniform())
  }
}

/** Fisher and Yates. */
export function shuffle(values: Int32Array, seed: number): void {
  const random = new Random(seed)
  for (let i = values.length - 1; i > 0; i--) {
    const j = random.integer(i + 1)
    const kept = values[i]!
    values[i] = values[j]!
    values[j] = kept
  }
}
