import { StopMatcher } from '../tokenizer/stream.ts'
import type { HarmonyReader, Step } from './harmony.ts'
import type { Stops } from './transcript.ts'

/**
 * Stop strings of an answer in channels. They are looked for in what is shown of it: its headers are not, though they hold
 * words such as `final`, and neither are calls.
 *
 * What passes through is the answer as it was written, as far as no stop string can claim what is shown of it; whoever reads it
 * afterwards shows the same, up to the stop string.
 */
export class ShownStops implements Stops {
  readonly #reader: HarmonyReader
  readonly #matcher: StopMatcher
  /** Steps of the answer that wait to be certain. */
  #steps: Step[] = []
  /** Characters that the waiting steps show and no stop string claims. */
  #certain = 0

  /** `reader`: of the same answer as who reads it afterwards has. */
  constructor(stops: readonly string[], reader: HarmonyReader) {
    this.#matcher = new StopMatcher(stops)
    this.#reader = reader
  }

  push(written: string): { text: string; stopped?: string } {
    return this.#match(this.#reader.steps(written))
  }

  pass(written: string): string {
    for (const step of this.#reader.steps(written)) {
      this.#steps.push(step)
      this.#certain += step.text.length
    }
    return this.#release()
  }

  flush(): string {
    const { text, stopped } = this.#match(this.#reader.lastSteps())
    if (stopped !== undefined) return text
    this.#certain += this.#matcher.flush().length
    return text + this.#release() + this.#steps.map(({ written }) => written).join('')
  }

  #match(steps: readonly Step[]): { text: string; stopped?: string } {
    for (const step of steps) {
      this.#steps.push(step)
      if (step.text === '') continue
      const { text, stopped } = this.#matcher.push(step.text)
      this.#certain += text.length
      if (stopped !== undefined) return { text: this.#release(), stopped }
    }
    return { text: this.#release() }
  }

  /**
   * What was written of all that is certain. A step that shows nothing goes with the next that does: the mark behind a thought
   * makes who reads it close the thought, which a stop string may have forbidden.
   */
  #release(): string {
    let count = 0
    let part = ''
    for (const [index, { text, written, calls }] of this.#steps.entries()) {
      const isWhole = text.length <= this.#certain
      if (isWhole && (text !== '' || calls.length > 0)) count = index + 1
      if (!isWhole && this.#certain > 0 && text === written) {
        part = text.slice(0, this.#certain)
        count = index
        this.#steps[index] = { text: text.slice(part.length), written: written.slice(part.length), calls }
      }
      if (!isWhole) break
      this.#certain -= text.length
    }
    if (part !== '') this.#certain = 0
    const released = this.#steps.splice(0, count)
    return released.map(({ written }) => written).join('') + part
  }
}
