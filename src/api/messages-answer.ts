/** What a chat answered, in the words of /v1/messages: whole, or as the events of a stream. */
import type { ChatChunk, ChatCompletion, ChatToolCall } from './chat.ts'
import type { Usage } from './completions.ts'
import { fieldOfMessages, type MessagesRequest } from './messages.ts'
import { ThoughtSplitter } from './thought-splitter.ts'

export interface MessagesEvent {
  readonly event: string
  readonly data: object
}

type Block =
  | { type: 'text'; text: string; citations: null }
  | { type: 'thinking'; thinking: string; signature: string }
  | { type: 'tool_use'; id: string; name: string; input: unknown }

const stopReasons: Readonly<Record<string, string>> = {
  stop: 'end_turn',
  length: 'max_tokens',
  tool_calls: 'tool_use',
}

const errorTypes: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
}

export class MessagesAnswer {
  readonly #asked: MessagesRequest
  readonly #content: Block[] = []
  readonly #splitter = new ThoughtSplitter()
  #events: MessagesEvent[] = []
  #open: 'text' | 'thinking' | undefined
  #head: { id: string; model: string } | undefined
  #finish: string | undefined
  #usage: Usage | undefined

  constructor(asked: MessagesRequest) {
    this.#asked = asked
  }

  /** The body of an answer that comes at once. */
  whole(answer: ChatCompletion): object {
    const [{ message, finish_reason }] = answer.choices as [ChatCompletion['choices'][0]]
    this.#head = answer
    this.#usage = answer.usage
    this.#finish = finish_reason
    this.#say(message.content ?? '')
    this.#endText()
    for (const call of message.tool_calls ?? []) this.#call(call)
    return this.#message()
  }

  /** What one chunk of the chat's stream says. */
  chunk(chunk: ChatChunk): readonly MessagesEvent[] {
    if (this.#head === undefined) {
      this.#head = chunk
      this.#tell('message_start', { message: this.#message() })
    }
    if (chunk.usage != null) this.#usage = chunk.usage
    for (const { delta, finish_reason } of chunk.choices) {
      this.#say(delta.content ?? '')
      for (const call of delta.tool_calls ?? []) {
        this.#endText()
        this.#call(call)
      }
      this.#finish ??= finish_reason ?? undefined
    }
    return this.#told()
  }

  /** Nothing more comes. */
  done(): readonly MessagesEvent[] {
    this.#endText()
    const { stop_reason, stop_sequence, usage } = this.#message()
    this.#tell('message_delta', { delta: { stop_reason, stop_sequence }, usage })
    this.#tell('message_stop', {})
    return this.#told()
  }

  /** It broke off. */
  failed(problem: { error: { message: string } }): readonly MessagesEvent[] {
    this.#tell('error', messagesRefusal(problem, 500))
    return this.#told()
  }

  refusal(problem: { error: { message: string } }, status: number): object {
    return messagesRefusal(problem, status)
  }

  /** The asked field that a chat calls `param`. */
  field(param: string): string {
    return fieldOfMessages(param)
  }

  #say(text: string): void {
    if (text !== '') this.#add(this.#splitter.push(text))
  }

  #endText(): void {
    this.#add(this.#splitter.end())
    this.#close()
  }

  #add({ thought, said }: { thought: string; said: string }): void {
    this.#grow('thinking', thought)
    this.#grow('text', said)
  }

  #grow(type: 'text' | 'thinking', more: string): void {
    if (more === '') return
    if (this.#open !== type) {
      this.#close()
      this.#begin(
        type === 'text' ? { type, text: '', citations: null } : { type, thinking: '', signature: '' },
      )
      this.#open = type
    }
    const block = this.#content.at(-1)!
    if (block.type === 'text') block.text += more
    if (block.type === 'thinking') block.thinking += more
    this.#delta(
      type === 'text' ? { type: 'text_delta', text: more } : { type: 'thinking_delta', thinking: more },
    )
  }

  #close(): void {
    if (this.#open === undefined) return
    this.#tell('content_block_stop', { index: this.#last })
    this.#open = undefined
  }

  /** A call comes whole. */
  #call({ id, function: { name, arguments: given } }: ChatToolCall): void {
    this.#begin({ type: 'tool_use', id, name, input: {} })
    this.#content[this.#last] = { type: 'tool_use', id, name, input: parsed(given) }
    this.#delta({ type: 'input_json_delta', partial_json: given })
    this.#tell('content_block_stop', { index: this.#last })
  }

  #begin(block: Block): void {
    this.#content.push(block)
    this.#tell('content_block_start', { index: this.#last, content_block: { ...block } })
  }

  #delta(delta: object): void {
    this.#tell('content_block_delta', { index: this.#last, delta })
  }

  get #last(): number {
    return this.#content.length - 1
  }

  #tell(event: string, about: object): void {
    this.#events.push({ event, data: { type: event, ...about } })
  }

  #told(): readonly MessagesEvent[] {
    const events = this.#events
    this.#events = []
    return events
  }

  #message() {
    const calls = this.#content.some(({ type }) => type === 'tool_use')
    const finish = calls && this.#finish === 'stop' ? 'tool_calls' : this.#finish
    return {
      id: `msg_${(this.#head?.id ?? '').replace(/^chatcmpl-/, '').replaceAll('-', '')}`,
      type: 'message',
      role: 'assistant',
      model: this.#head?.model ?? this.#asked.model,
      content: [...this.#content],
      stop_reason: finish === undefined ? null : stopReasons[finish]!,
      stop_sequence: null,
      usage: usageOf(this.#usage),
    }
  }
}

/** What was found in the cache is counted beside the rest of the prompt. */
function usageOf(usage: Usage | undefined): object {
  const cache_read_input_tokens = usage?.prompt_tokens_details?.cached_tokens ?? 0
  return {
    input_tokens: (usage?.prompt_tokens ?? 0) - cache_read_input_tokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens,
    output_tokens: usage?.completion_tokens ?? 0,
  }
}

/** The body of a refusal. */
export function messagesRefusal(
  { error: { message } }: { error: { message: string } },
  status: number,
): object {
  const type = errorTypes[status] ?? (status >= 500 ? 'api_error' : 'invalid_request_error')
  return { type: 'error', error: { type, message } }
}

/** A model may have been cut off within them. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError) return { arguments: text }
    throw error
  }
}
