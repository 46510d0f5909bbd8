/** Tells what a model thinks, which it writes between these at the beginning, from what it says. */
const open = '<think>'
const close = '</think>'

export interface Split {
  thought: string
  said: string
}

/** Of a text that comes in pieces, split anywhere. */
export class ThoughtSplitter {
  #state: 'unknown' | 'thinking' | 'closed' | 'saying' = 'unknown'
  #hasThought = false
  /** Came, and may still be a part of a mark. */
  #kept = ''

  push(text: string): Split {
    const split: Split = { thought: '', said: '' }
    let rest = this.#kept + text
    this.#kept = ''
    if (this.#state === 'unknown') {
      const begun = rest.trimStart()
      if (begun.length < open.length && open.startsWith(begun)) {
        this.#kept = rest
        return split
      }
      this.#state = begun.startsWith(open) ? 'thinking' : 'saying'
      if (this.#state === 'thinking') rest = begun.slice(open.length)
    }
    if (this.#state === 'thinking') {
      if (!this.#hasThought) rest = rest.trimStart()
      this.#hasThought ||= rest !== ''
      const end = rest.indexOf(close)
      if (end < 0) {
        const whole = rest.length - overlap(rest)
        this.#kept = rest.slice(whole)
        return { thought: rest.slice(0, whole), said: '' }
      }
      split.thought = rest.slice(0, end)
      rest = rest.slice(end + close.length)
      this.#state = 'closed'
    }
    if (this.#state === 'closed') {
      rest = rest.trimStart()
      if (rest === '') return split
      this.#state = 'saying'
    }
    split.said = rest
    return split
  }

  /** What is left when nothing more comes. */
  end(): Split {
    const left = this.#kept
    this.#kept = ''
    return this.#state === 'thinking' ? { thought: left, said: '' } : { thought: '', said: left }
  }
}

/** Characters at the end of `text` that may begin the closing mark. */
function overlap(text: string): number {
  for (let length = Math.min(close.length - 1, text.length); length > 0; length--)
    if (close.startsWith(text.slice(-length))) return length
  return 0
}
