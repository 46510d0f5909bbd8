/**
 * Two sides measured in turns (A B A B ...), because the speed of a shared machine drifts: each ratio is of
 * two neighbours in time, and what is reported is their median and how far they spread.
 */
import { assert } from '../../src/base/assert.ts'

/** What one run of one side measured, by name. */
export type Measured = Readonly<Record<string, number>>

export interface Spread {
  median: number
  min: number
  max: number
}

export interface Comparison {
  /** What was measured, with its unit last: outputTokensPerSecond. */
  figure: string
  /** Names of the two sides; every ratio is first / second. */
  sides: readonly [string, string]
  values: readonly (readonly [number, number])[]
  ratio: Spread
}

export interface Side {
  name: string
  /** Measures once; `turn` counts from 0 and is the same for both sides of a pair. */
  run(turn: number): Promise<Measured>
}

export function spreadOf(values: readonly number[]): Spread {
  assert(values.length > 0, 'a spread is of at least one value')
  const sorted = [...values].sort((a, b) => a - b)
  return { median: quantile(sorted, 0.5), min: sorted[0]!, max: sorted.at(-1)! }
}

/** Quantile of ascending values, linear between neighbours. */
export function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1)
  const low = sorted[Math.floor(at)]!
  const high = sorted[Math.ceil(at)]!
  return low + (high - low) * (at - Math.floor(at))
}

/** Runs both sides in turns and compares every figure that both measured. */
export async function interleave(
  pairs: number,
  first: Side,
  second: Side,
  say: (line: string) => void,
): Promise<Comparison[]> {
  const measured: [Measured, Measured][] = []
  for (let turn = 0; turn < pairs; turn++) {
    const pair: [Measured, Measured] = [await first.run(turn), await second.run(turn)]
    measured.push(pair)
    say(`pair ${turn + 1}/${pairs}: ${first.name} ${shown(pair[0])}; ${second.name} ${shown(pair[1])}`)
  }
  const figures = Object.keys(measured[0]![0]).filter((figure) =>
    measured.every((pair) => pair.every((side) => Number.isFinite(side[figure]))),
  )
  return figures.map((figure): Comparison => {
    const values = measured.map(([a, b]) => [rounded(a[figure]!), rounded(b[figure]!)] as const)
    const { median, min, max } = spreadOf(measured.map(([a, b]) => a[figure]! / b[figure]!))
    const ratio = { median: rounded(median), min: rounded(min), max: rounded(max) }
    say(`${figure}: ${ratio.median}x (${ratio.min}..${ratio.max})`)
    return { figure, sides: [first.name, second.name], values, ratio }
  })
}

function shown(measured: Measured): string {
  return Object.entries(measured)
    .map(([figure, value]) => `${figure} ${rounded(value)}`)
    .join(', ')
}

/** Four significant digits: more would be noise. */
export function rounded(value: number): number {
  return Number(value.toPrecision(4))
}

export function roundedAll(figures: Measured): Measured {
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, rounded(value)]))
}
