/** What a chat answered, in the words of /v1/messages: whole, or as the events of a stream. */
import type { ChatToolCall } from './chat.ts'
import { ChatWording } from './chat-wording.ts'
import type { Usage } from './completions.ts'

type Block =
  | { type: 'text'; text: string; citations: null }
  | { type: 'thinking'; thinking: string; signature: string }
  | { type: 'tool_use'; id: string; name: string; input: unknown }

const stopReasons = { stop: 'end_turn', length: 'max_tokens', tool_calls: 'tool_use' } as const

const errorTypes: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
}

export class MessagesAnswer extends ChatWording {
  readonly #content: Block[] = []
  #open: 'thought' | 'said' | undefined

  protected override begin(): void {
    this.tell('message_start', { message: this.body() })
  }

  protected override end(): void {
    const { stop_reason, stop_sequence, usage } = this.body()
    this.tell('message_delta', { delta: { stop_reason, stop_sequence }, usage })
    this.tell('message_stop', {})
  }

  protected override break(problem: { error: { message: string } }): void {
    this.tell('error', messagesRefusal(problem, 500))
  }

  protected override grow(kind: 'thought' | 'said', more: string): void {
    if (this.#open !== kind) {
      this.close()
      this.#begin(
        kind === 'said'
          ? { type: 'text', text: '', citations: null }
          : { type: 'thinking', thinking: '', signature: '' },
      )
      this.#open = kind
    }
    const block = this.#content.at(-1)!
    if (block.type === 'text') block.text += more
    if (block.type === 'thinking') block.thinking += more
    this.#delta(
      kind === 'said' ? { type: 'text_delta', text: more } : { type: 'thinking_delta', thinking: more },
    )
  }

  protected override close(): void {
    if (this.#open !== undefined) this.#stop()
    this.#open = undefined
  }

  protected override call({ id, function: { name, arguments: given } }: ChatToolCall): void {
    this.#begin({ type: 'tool_use', id, name, input: {} })
    this.#content[this.#last] = { type: 'tool_use', id, name, input: parsed(given) }
    this.#delta({ type: 'input_json_delta', partial_json: given })
    this.#stop()
  }

  protected override body() {
    const calls = this.#content.some(({ type }) => type === 'tool_use')
    const finish = calls && this.finish === 'stop' ? 'tool_calls' : this.finish
    return {
      id: `msg_${this.id}`,
      type: 'message',
      role: 'assistant',
      model: this.head!.model,
      content: [...this.#content],
      stop_reason: finish === undefined ? null : stopReasons[finish],
      stop_sequence: null,
      usage: usageOf(this.usage),
    }
  }

  #begin(block: Block): void {
    this.#content.push(block)
    this.tell('content_block_start', { index: this.#last, content_block: { ...block } })
  }

  #delta(delta: object): void {
    this.tell('content_block_delta', { index: this.#last, delta })
  }

  #stop(): void {
    this.tell('content_block_stop', { index: this.#last })
  }

  get #last(): number {
    return this.#content.length - 1
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
