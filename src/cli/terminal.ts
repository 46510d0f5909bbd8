/** What people see on stderr: stdout stays data. */
const controlSequence = '\u001b['

/** True when stderr is a screen that may be redrawn and coloured. */
export const interactive = process.stderr.isTTY === true && process.env.TERM !== 'dumb'
const coloured = interactive && !process.env.NO_COLOR

function paint(code: number, on = coloured): (text: string) => string {
  return (text) => (on ? `${controlSequence}${code}m${text}${controlSequence}0m` : text)
}

/** Colours for text that goes to `stream`; undefined where it takes none. */
export function coloursOf(
  stream: NodeJS.WriteStream,
): Record<'green' | 'dim' | 'bold' | 'red' | 'yellow', (text: string) => string> | undefined {
  if (stream.isTTY !== true || process.env.TERM === 'dumb' || process.env.NO_COLOR) return undefined
  const [green, dimmed, strong, alarming, yellow] = [32, 2, 1, 31, 33].map((code) => paint(code, true))
  return { green: green!, dim: dimmed!, bold: strong!, red: alarming!, yellow: yellow! }
}

export const bold = paint(1)
export const dim = paint(2)
export const red = paint(31)
export const green = paint(32)
export const yellow = paint(33)
export const cyan = paint(36)

export function note(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** `12 s`, `3 min 5 s`, `2 h 10 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** `1,234` or `1.2M`, for numbers that people read at a glance. */
export function compact(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)}B`
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`
  return Math.round(value).toLocaleString('en-US')
}

/** `512 MB`, `1.5 GB`: decimal units. */
export function bytes(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(1)} GB`
  return value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB` : `${Math.ceil(value / 1e3)} kB`
}

/**
 * One line that is redrawn on a screen; elsewhere a line now and then, so that logs stay short.
 */
export class ProgressLine {
  readonly #everyMs: number
  #lastMs: number
  /** Lines that are drawn and will be drawn over. */
  #open = 0

  constructor(everyMs = interactive ? 100 : 10_000) {
    this.#everyMs = everyMs
    // What takes less time than one interval says nothing in a log.
    this.#lastMs = interactive ? Number.NEGATIVE_INFINITY : performance.now()
  }

  /** `share` in [0, 1] draws the bar; `above` is drawn over it on a screen, when it is due. */
  update(share: number, text: string, above: () => readonly string[] = () => []): void {
    const nowMs = performance.now()
    if (nowMs - this.#lastMs < this.#everyMs) return
    this.#lastMs = nowMs
    if (!interactive) {
      note(`${Math.round(share * 100)}% ${text}`)
      return
    }
    const width = 24
    const filled = Math.round(Math.min(1, share) * width)
    const bar = `${cyan('━'.repeat(filled))}${dim('─'.repeat(width - filled))}`
    const room = Math.max(20, (process.stderr.columns ?? 100) - width - 8)
    const lines = [
      ...above(),
      `${bar} ${String(Math.round(share * 100)).padStart(3)}% ${text.slice(0, room)}`,
    ]
    process.stderr.write(`${this.#erase()}${lines.join('\n')}`)
    this.#open = lines.length
  }

  /** Goes back to the first line that is drawn, and clears from there. */
  #erase(): string {
    if (this.#open === 0) return ''
    const up = this.#open > 1 ? `${controlSequence}${this.#open - 1}A` : ''
    return `\r${up}${controlSequence}J`
  }

  /** Ends the line, so that what follows starts on a new one. */
  end(): void {
    if (this.#open > 0) process.stderr.write('\n')
    this.#open = 0
    this.#lastMs = Number.NEGATIVE_INFINITY
  }

  /** Prints above the line. */
  note(text: string): void {
    process.stderr.write(this.#erase())
    this.#open = 0
    note(text)
    this.#lastMs = Number.NEGATIVE_INFINITY
  }
}
