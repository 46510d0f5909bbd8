/** A small line chart as SVG text, with a legend, readable on light and on dark ground. */

export type Scale = 'linear' | 'logarithmic'

export interface Line {
  title: string
  points: readonly { x: number; y: number }[]
}

export interface Chart {
  title: string
  xTitle: string
  yTitle: string
  /** Of both axes; logarithmic ones leave out what is not above zero. */
  scale: Scale
  lines: readonly Line[]
  /** A dashed line across, with what it means. */
  limit?: { y: number; title: string }
}

const width = 720
const height = 440
const frame = { left: 70, top: 44, right: width - 20, bottom: height - 96 }
// Okabe and Ito's palette: told apart by colour-blind readers too, on white and on black.
const colors = ['#d55e00', '#e69f00', '#0072b2', '#009e73', '#cc79a7', '#56b4e9']
const ticksMax = 8
/** A line of more points is drawn without dots. */
const dotsMax = 60

export function chartSvg(chart: Chart): string {
  const axis = chart.scale === 'linear' ? linearAxis : logarithmicAxis
  const lines = chart.lines.map((line) => ({ ...line, points: drawable(line.points, chart.scale) }))
  const all = lines.flatMap(({ points }) => points)
  const x = axis(
    all.map((point) => point.x),
    frame.left,
    frame.right,
  )
  const ys = [...all.map((point) => point.y), ...(chart.limit === undefined ? [] : [chart.limit.y])]
  const y = axis(ys, frame.bottom, frame.top)
  const parts = [
    text(width / 2, 22, chart.title, 'middle', 'title'),
    ...x.ticks.map((tick) => gridLine(x.place(tick), frame.top, x.place(tick), frame.bottom)),
    ...y.ticks.map((tick) => gridLine(frame.left, y.place(tick), frame.right, y.place(tick))),
    ...x.ticks.map((tick) => text(x.place(tick), frame.bottom + 18, short(tick), 'middle')),
    ...y.ticks.map((tick) => text(frame.left - 8, y.place(tick) + 4, short(tick), 'end')),
    text((frame.left + frame.right) / 2, frame.bottom + 38, chart.xTitle, 'middle'),
    `<text transform="translate(18 ${(frame.top + frame.bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(chart.yTitle)}</text>`,
    ...(chart.limit === undefined ? [] : limitLine(chart.limit, y.place(chart.limit.y))),
    ...lines.map((line, i) => curve(line, x.place, y.place, colors[i % colors.length]!)),
    ...chart.lines.map((line, i) => legend(line.title, i)),
  ]
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img">
<style>
  text { font: 13px system-ui, sans-serif; fill: #333 }
  .title { font-weight: 600; font-size: 15px }
  .grid { stroke: #8884; stroke-width: 1 }
  .limit { stroke: #777; stroke-width: 1.5; stroke-dasharray: 6 4 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .limit { stroke: #aaa } }
</style>
${parts.join('\n')}
</svg>
`
}

interface Axis {
  place(value: number): number
  ticks: number[]
}

function drawable(points: Line['points'], scale: Scale): Line['points'] {
  const above = scale === 'linear' ? Number.NEGATIVE_INFINITY : 0
  return points
    .filter(({ x, y }) => x > above && y > above && Number.isFinite(x) && Number.isFinite(y))
    .sort((a, b) => a.x - b.x)
}

function linearAxis(values: readonly number[], from: number, to: number): Axis {
  const [min, max] = [Math.min(...values), Math.max(...values)]
  const margin = (max - min || 1) * 0.04
  const [low, high] = [min - margin, max + margin]
  const place = (value: number) => from + ((value - low) / (high - low)) * (to - from)
  const rough = (high - low) / ticksMax
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough)!
  const first = Math.ceil(low / step)
  const count = Math.floor(high / step) - first + 1
  const digits = Math.max(0, -Math.floor(Math.log10(step)))
  return {
    place,
    ticks: Array.from({ length: count }, (_, i) => Number(((first + i) * step).toFixed(digits))),
  }
}

function logarithmicAxis(values: readonly number[], from: number, to: number): Axis {
  const low = Math.min(...values) / 1.15
  const high = Math.max(...values) * 1.15
  const place = (value: number) => from + (Math.log(value / low) / Math.log(high / low)) * (to - from)
  let ticks = candidates(low, high, [1, 2, 5])
  if (ticks.length > ticksMax) ticks = candidates(low, high, [1])
  return { place, ticks }
}

function candidates(low: number, high: number, steps: readonly number[]): number[] {
  const ticks: number[] = []
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const step of steps) {
      const tick = Number(`${step}e${power}`)
      if (tick >= low && tick <= high) ticks.push(tick)
    }
  }
  return ticks
}

function curve({ points }: Line, x: Axis['place'], y: Axis['place'], color: string): string {
  const places = points.map((point) => [x(point.x).toFixed(1), y(point.y).toFixed(1)] as const)
  const shown = places.length > dotsMax ? [] : places
  const dots = shown.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="3.5" fill="${color}"/>`).join('')
  const path = places.map((place) => place.join(' ')).join(' L')
  return `<path d="M${path}" fill="none" stroke="${color}" stroke-width="2"/>${dots}`
}

function limitLine({ title }: { title: string }, y: number): string[] {
  return [
    `<line class="limit" x1="${frame.left}" y1="${y.toFixed(1)}" x2="${frame.right}" y2="${y.toFixed(1)}"/>`,
    text(frame.right - 4, y - 6, title, 'end'),
  ]
}

function legend(title: string, index: number): string {
  const x = frame.left + (index % 2) * 320
  const y = frame.bottom + 64 + Math.floor(index / 2) * 20
  const color = colors[index % colors.length]!
  return `<circle cx="${x}" cy="${y - 4}" r="5" fill="${color}"/>${text(x + 14, y, title, 'start')}`
}

function gridLine(x1: number, y1: number, x2: number, y2: number): string {
  const at = [x1, y1, x2, y2].map((place) => place.toFixed(1))
  return `<line class="grid" x1="${at[0]}" y1="${at[1]}" x2="${at[2]}" y2="${at[3]}"/>`
}

function text(x: number, y: number, content: string, anchor: string, kind = ''): string {
  const name = kind === '' ? '' : ` class="${kind}"`
  return `<text${name} x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escaped(content)}</text>`
}

function short(value: number): string {
  return value >= 1000 ? `${value / 1000}k` : String(value)
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
