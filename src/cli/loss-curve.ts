/** A run's loss as a curve of braille dots, small enough for a terminal. */

/** Points that are kept: when there are more, neighbours are joined. */
const pointsMax = 1024
/** Dots of one character. */
const [dotsAcross, dotsDown] = [2, 4]
/** Bit of each dot of a braille character (Unicode 15, section 21.1), by column and row. */
const bits = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
] as const

interface Point {
  step: number
  sum: number
  count: number
}

export class LossCurve {
  #points: Point[] = []
  /** Steps that are one point. */
  #joined = 1

  add(step: number, loss: number): void {
    if (!Number.isFinite(loss)) return
    const last = this.#points.at(-1)
    if (last !== undefined && last.count < this.#joined && step > last.step) {
      last.sum += loss
      last.count++
    } else this.#points.push({ step, sum: loss, count: 1 })
    if (this.#points.length < pointsMax) return
    const halved: Point[] = []
    for (let i = 0; i < this.#points.length; i += 2) {
      const [a, b] = [this.#points[i]!, this.#points[i + 1] ?? { step: 0, sum: 0, count: 0 }]
      halved.push({ step: a.step, sum: a.sum + b.sum, count: a.count + b.count })
    }
    this.#points = halved
    this.#joined *= 2
  }

  /** Lines of `columns` characters, the scale at the left; none before there are two points. */
  draw(columns: number, rows: number): string[] {
    const points = this.#points.map(({ step, sum, count }) => ({ step, loss: sum / count }))
    if (points.length < 2) return []
    const losses = points.map(({ loss }) => loss)
    const [low, high] = [Math.min(...losses), Math.max(...losses)]
    const labelColumns = Math.max(high.toFixed(2).length, low.toFixed(2).length)
    const across = Math.max(4, columns - labelColumns - 2)
    const cells = plot(points, across, rows, low, high)
    return cells.map((row, index) => {
      const value = index === 0 ? high : index === rows - 1 ? low : undefined
      return `${(value?.toFixed(2) ?? '').padStart(labelColumns)} ${index === 0 || index === rows - 1 ? '┤' : '│'}${row}`
    })
  }
}

function plot(
  points: readonly { step: number; loss: number }[],
  across: number,
  rows: number,
  low: number,
  high: number,
): string[] {
  const cells = Array.from({ length: rows }, () => new Uint8Array(across))
  const [first, last] = [points[0]!.step, points.at(-1)!.step]
  const place = ({ step, loss }: { step: number; loss: number }) => ({
    x: Math.round(((step - first) / (last - first || 1)) * (across * dotsAcross - 1)),
    y: Math.round((1 - (loss - low) / (high - low || 1)) * (rows * dotsDown - 1)),
  })
  const dot = (x: number, y: number) => {
    cells[Math.floor(y / dotsDown)]![Math.floor(x / dotsAcross)]! |= bits[x % dotsAcross]![y % dotsDown]!
  }
  let before = place(points[0]!)
  for (const point of points) {
    const here = place(point)
    const dots = Math.max(1, Math.abs(here.x - before.x), Math.abs(here.y - before.y))
    for (let i = 0; i <= dots; i++) {
      const between = (a: number, b: number) => Math.round(a + ((b - a) * i) / dots)
      dot(between(before.x, here.x), between(before.y, here.y))
    }
    before = here
  }
  return cells.map((row) => String.fromCodePoint(...[...row].map((cell) => 0x2800 + cell)))
}
