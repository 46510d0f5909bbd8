/** Words a chat's answer otherwise: what every dialect needs to know of it, whole or chunk by chunk. */
import type { ChatChunk, ChatCompletion, ChatToolCall } from './chat.ts'
import type { Usage } from './completions.ts'
import { ThoughtSplitter } from './thought-splitter.ts'

export interface NamedEvent {
  readonly event: string
  readonly data: object
}

export abstract class ChatWording {
  readonly #splitter = new ThoughtSplitter()
  #events: NamedEvent[] = []
  #head: Pick<ChatChunk, 'id' | 'created' | 'model'> | undefined
  #finish: NonNullable<ChatChunk['choices'][0]['finish_reason']> | undefined
  #usage: Usage | undefined

  /** The body of an answer that comes at once. */
  whole(answer: ChatCompletion): object {
    const [{ message, finish_reason }] = answer.choices as [ChatCompletion['choices'][0]]
    this.#head = answer
    this.#usage = answer.usage
    this.#finish = finish_reason
    this.#say(message.content ?? '')
    this.#endText()
    for (const call of message.tool_calls ?? []) this.call(call)
    return this.body()
  }

  /** What one chunk of the chat's stream says. */
  chunk(chunk: ChatChunk): readonly NamedEvent[] {
    if (this.#head === undefined) {
      this.#head = chunk
      this.begin()
    }
    this.#usage = chunk.usage ?? this.#usage
    for (const { delta, finish_reason } of chunk.choices) {
      this.#say(delta.content ?? '')
      for (const call of delta.tool_calls ?? []) {
        this.#endText()
        this.call(call)
      }
      this.#finish ??= finish_reason ?? undefined
    }
    return this.#told()
  }

  /** Nothing more comes. */
  done(): readonly NamedEvent[] {
    this.#endText()
    this.end()
    return this.#told()
  }

  /** It broke off. */
  failed(problem: { error: { code: string; message: string } }): readonly NamedEvent[] {
    this.break(problem)
    return this.#told()
  }

  /** The part of the chat's id that is its own. */
  protected get id(): string {
    return (this.#head?.id ?? '').replace(/^chatcmpl-/, '').replaceAll('-', '')
  }

  /** Undefined before anything came. */
  protected get head() {
    return this.#head
  }

  protected get finish() {
    return this.#finish
  }

  protected get usage() {
    return this.#usage
  }

  protected tell(event: string, about: object): void {
    this.#events.push({ event, data: { type: event, ...about } })
  }

  protected abstract begin(): void
  protected abstract end(): void
  protected abstract break(problem: { error: { code: string; message: string } }): void
  /** More of what is thought or said; never nothing. */
  protected abstract grow(kind: 'thought' | 'said', text: string): void
  /** What grew is whole. */
  protected abstract close(): void
  /** A call comes whole. */
  protected abstract call(call: ChatToolCall): void
  /** The answer as far as it came. */
  protected abstract body(): object

  #say(text: string): void {
    if (text !== '') this.#add(this.#splitter.push(text))
  }

  #endText(): void {
    this.#add(this.#splitter.end())
    this.close()
  }

  #add({ thought, said }: { thought: string; said: string }): void {
    if (thought !== '') this.grow('thought', thought)
    if (said !== '') this.grow('said', said)
  }

  #told(): readonly NamedEvent[] {
    const events = this.#events
    this.#events = []
    return events
  }
}
