import type { Chunk } from './progress.ts'

/** Of one answer, all choices together. */
const charactersMax = 1_000_000

/** The text of an answer as the client got it, for whoever compares it or writes it down. */
export class AnswerRecord {
  readonly #texts: string[] = []
  readonly #finishes: string[] = []
  #characters = 0

  /** By choice. */
  get texts(): readonly string[] {
    return this.#texts
  }

  /** Every choice came to its own end: `stop` ends an answer, `length` cuts it. */
  get finishes(): readonly string[] {
    return this.#finishes
  }

  get hasText(): boolean {
    return this.#characters > 0
  }

  /** The end of a long answer is left out. */
  get isCut(): boolean {
    return this.#characters > charactersMax
  }

  /** A piece of a stream, or a whole answer. */
  add({ choices = [] }: Chunk): void {
    for (const { index, text, delta, message, finish_reason } of choices) {
      const calls =
        (delta ?? message)?.tool_calls?.map(({ function: call }) => `\n${JSON.stringify(call)}`) ?? []
      const piece = (text ?? delta?.content ?? message?.content ?? '') + calls.join('')
      this.#characters += piece.length
      if (!this.isCut) this.#texts[index] = (this.#texts[index] ?? '') + piece
      if (finish_reason != null) this.#finishes[index] = finish_reason
    }
  }
}
