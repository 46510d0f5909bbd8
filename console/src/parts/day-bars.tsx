import { numberText } from '../text.ts'

interface DayBarsProps {
  readonly title: string
  /** What a bar is made of, from below. */
  readonly parts: readonly string[]
  /** In order; days between them that are missing have nothing. */
  readonly days: readonly { readonly day: string; readonly values: readonly number[] }[]
}

const dayMs = 86_400_000
const daysMax = 366
/** So that a single day does not fill it. */
const daysMin = 14
const height = 160
const barWidth = 10

/** A bar for each day. */
export function DayBars({ title, parts, days }: DayBarsProps) {
  const all = filled(days)
  const most = Math.max(...all.map(({ values }) => sumOf(values)), Number.MIN_VALUE)
  return (
    <figure className="chart">
      <figcaption>{title}</figcaption>
      <div className="bars">
        <svg
          role="img"
          aria-label={`${title}: at most ${numberText(most)}`}
          viewBox={`0 0 ${all.length * barWidth} ${height}`}
          preserveAspectRatio="none"
        >
          {all.map(({ day, values }, at) => (
            <g key={day}>
              <title>{`${day}: ${values.map((value, i) => `${numberText(value)} ${parts[i]}`).join(', ')}`}</title>
              {values.map((value, i) => (
                <rect
                  key={parts[i]}
                  className={`bar-${i}`}
                  x={at * barWidth + 1}
                  width={barWidth - 2}
                  y={height * (1 - sumOf(values.slice(0, i + 1)) / most)}
                  height={(height * value) / most}
                />
              ))}
            </g>
          ))}
        </svg>
        <span className="quiet">{numberText(most)}</span>
      </div>
      <div className="ends quiet">
        <span>{all[0]?.day}</span>
        <span>
          {parts.map((part, i) => (
            <span key={part} className={`part part-${i}`}>
              {part}
            </span>
          ))}
        </span>
        <span>{all.length > 1 && all.at(-1)!.day}</span>
      </div>
    </figure>
  )
}

const sumOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0)

/** With the days that nothing was used in; the last year of it. */
function filled(days: DayBarsProps['days']): DayBarsProps['days'] {
  const known = new Map(days.map(({ day, values }) => [day, values]))
  const times = days.map(({ day }) => Date.parse(day))
  const last = Math.max(...times)
  const first = Math.min(...times, last - (daysMin - 1) * dayMs)
  const count = Math.round((last - first) / dayMs) + 1
  const nothing = days[0]?.values.map(() => 0) ?? []
  const all = Array.from({ length: days.length === 0 ? 0 : count }, (_, at) => {
    const day = new Date(first + at * dayMs).toISOString().slice(0, 10)
    return { day, values: known.get(day) ?? nothing }
  })
  return all.slice(-daysMax)
}
