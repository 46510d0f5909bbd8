import type { Chunk, ToolCall } from './progress.ts'

/** Of one answer, all choices together. */
const charactersMax = 1_000_000

/** The text of an answer as the client got it, for whoever compares it or writes it down. */
export class AnswerRecord {
  readonly #texts: string[] = []
  readonly #calls: ToolCall[][] = []
  readonly #finishes: string[] = []
  #characters = 0

  /** By choice. */
  get texts(): readonly string[] {
    return this.#texts
  }

  /** Calls of tools by choice; a choice without any has no place, or an empty one. */
  get calls(): readonly (readonly ToolCall[])[] {
    return this.#calls
  }

  /** What was said, as far as it is the same whenever the same is said: ids of calls are not. */
  get said(): string {
    const calls = this.#calls.map((list) => list.map(({ function: call }) => call))
    return JSON.stringify([this.#texts, calls])
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
      const piece = text ?? delta?.content ?? message?.content ?? ''
      const calls = (delta ?? message)?.tool_calls ?? []
      this.#characters += piece.length + (calls.length > 0 ? JSON.stringify(calls).length : 0)
      if (!this.isCut) {
        this.#texts[index] = (this.#texts[index] ?? '') + piece
        for (const { index: _, ...call } of calls) (this.#calls[index] ??= []).push(call)
      }
      if (finish_reason != null) this.#finishes[index] = finish_reason
    }
  }
}
