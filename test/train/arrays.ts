/** Plain float64 arrays: the reference that gradients are checked against. */
import { Random } from '../../src/base/random.ts'

export interface NumberArray {
  shape: readonly number[]
  data: Float64Array
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1)
}

export function array(shape: readonly number[], fill: (index: number) => number): NumberArray {
  return { shape, data: Float64Array.from({ length: sizeOf(shape) }, (_, i) => fill(i)) }
}

/** Normal numbers moved by `offset`, rounded to float32 so that both sides start from the same values. */
export function randomArray(shape: readonly number[], seed: number, offset = 0): NumberArray {
  const random = new Random(seed)
  return array(shape, () => Math.fround(random.normal() + offset))
}

export function map(x: NumberArray, f: (value: number, index: number) => number): NumberArray {
  return { shape: x.shape, data: x.data.map(f) }
}

/** Coordinates of element `index`, outermost first. */
export function coordinates(shape: readonly number[], index: number): number[] {
  const out = new Array<number>(shape.length)
  let rest = index
  for (let i = shape.length - 1; i >= 0; i--) {
    out[i] = rest % shape[i]!
    rest = Math.floor(rest / shape[i]!)
  }
  return out
}

export function at(x: NumberArray, place: readonly number[]): number {
  return x.data[place.reduce((index, coordinate, i) => index * x.shape[i]! + coordinate, 0)]!
}

/** An array of `shape` whose element at each place is f(place). */
export function generate(shape: readonly number[], f: (place: number[]) => number): NumberArray {
  return array(shape, (index) => f(coordinates(shape, index)))
}

/** Elementwise with b repeated into a. */
export function elementwise(
  a: NumberArray,
  b: NumberArray,
  f: (x: number, y: number) => number,
): NumberArray {
  const skip = a.shape.length - b.shape.length
  return generate(a.shape, (place) =>
    f(
      at(a, place),
      at(
        b,
        b.shape.map((length, i) => place[skip + i]! % length),
      ),
    ),
  )
}

/** Applies f to every innermost row. */
export function rowwise(x: NumberArray, f: (row: number[]) => number[]): NumberArray {
  const width = x.shape.at(-1)!
  const rows: number[][] = []
  for (let start = 0; start < x.data.length; start += width)
    rows.push(f([...x.data.slice(start, start + width)]))
  const inner = rows[0]!.length
  return { shape: [...x.shape.slice(0, -1), inner], data: Float64Array.from(rows.flat()) }
}

/** y [..., M, N] = a [..., M, K] b [..., N, K]^T; one b serves consecutive a. */
export function product(a: NumberArray, b: NumberArray): NumberArray {
  const [m, k] = [a.shape.at(-2)!, a.shape.at(-1)!]
  const n = b.shape.at(-2)!
  const outerA = a.shape.slice(0, -2)
  const outerB = [...outerA.map(() => 1), ...b.shape.slice(0, -2)].slice(-outerA.length || undefined)
  return generate([...outerA, m, n], (place) => {
    const outer = place.slice(0, -2)
    const [i, j] = place.slice(-2) as [number, number]
    const shared = outer.map((coordinate, d) => Math.floor((coordinate * outerB[d]!) / outerA[d]!))
    const own = shared.slice(shared.length - (b.shape.length - 2))
    let sum = 0
    for (let l = 0; l < k; l++) sum += at(a, [...outer, i, l]) * at(b, [...own, j, l])
    return sum
  })
}
