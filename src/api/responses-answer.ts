/** What a chat answered, in the words of /v1/responses: whole, or as the events of a stream. */
import type { ChatToolCall } from './chat.ts'
import { ChatWording } from './chat-wording.ts'
import type { Usage } from './completions.ts'
import type { ResponsesRequest } from './responses.ts'

interface TextPart {
  type: 'output_text' | 'reasoning_text'
  text: string
  annotations?: []
  logprobs?: []
}

type Item =
  | { type: 'message'; id: string; role: 'assistant'; status: string; content: TextPart[] }
  | { type: 'reasoning'; id: string; status: string; summary: []; content: TextPart[] }
  | {
      type: 'function_call'
      id: string
      status: string
      call_id: string
      name: string
      arguments: string
    }

type TextItem = Extract<Item, { content: TextPart[] }>

const kinds = {
  message: { prefix: 'msg', part: 'output_text', delta: 'response.output_text' },
  reasoning: { prefix: 'rs', part: 'reasoning_text', delta: 'response.reasoning_text' },
} as const

export class ResponsesAnswer extends ChatWording {
  readonly #asked: ResponsesRequest
  readonly #output: Item[] = []
  #count = 0
  /** The text item that grows. */
  #open: TextItem | undefined

  constructor(asked: ResponsesRequest) {
    super()
    this.#asked = asked
  }

  protected override begin(): void {
    for (const event of ['response.created', 'response.in_progress'])
      this.#tell(event, { response: this.#response('in_progress') })
  }

  protected override end(): void {
    this.#tell(`response.${this.#status}`, { response: this.body() })
  }

  protected override break({ error: { code, message } }: { error: { code: string; message: string } }): void {
    this.#tell('response.failed', { response: { ...this.#response('failed'), error: { code, message } } })
  }

  protected override body(): object {
    return this.#response(this.#status)
  }

  get #status(): 'completed' | 'incomplete' {
    return this.finish === 'length' ? 'incomplete' : 'completed'
  }

  protected override grow(kind: 'thought' | 'said', text: string): void {
    const type = kind === 'said' ? 'message' : 'reasoning'
    if (this.#open?.type !== type) {
      this.close()
      this.#begin(type)
    }
    this.#open!.content[0]!.text += text
    this.#tell(`${kinds[type].delta}.delta`, {
      ...this.#place(),
      delta: text,
      ...(type === 'message' && { logprobs: [] }),
    })
  }

  #begin(type: keyof typeof kinds): void {
    const id = this.#idOf(kinds[type].prefix)
    const item: TextItem =
      type === 'message'
        ? { type, id, role: 'assistant', status: 'in_progress', content: [] }
        : { type, id, status: 'in_progress', summary: [], content: [] }
    this.#output.push(item)
    this.#tell('response.output_item.added', { output_index: this.#last, item: copied(item) })
    const part: TextPart =
      type === 'message'
        ? { type: 'output_text', text: '', annotations: [], logprobs: [] }
        : { type: 'reasoning_text', text: '' }
    item.content.push(part)
    this.#open = item
    this.#tell('response.content_part.added', { ...this.#place(), part: { ...part } })
  }

  protected override close(): void {
    const item = this.#open
    if (item === undefined) return
    const [part] = item.content as [TextPart]
    const place = this.#place()
    const { text } = part
    this.#tell(`${kinds[item.type].delta}.done`, {
      ...{ ...place, text },
      ...(item.type === 'message' && { logprobs: [] }),
    })
    this.#tell('response.content_part.done', { ...place, part: { ...part } })
    // What comes behind it ended it; the last is as whole as the answer.
    item.status = this.#status
    this.#tell('response.output_item.done', { output_index: this.#last, item: copied(item) })
    this.#open = undefined
  }

  protected override call({ id: call_id, function: { name, arguments: given } }: ChatToolCall): void {
    const item: Item = {
      ...{ type: 'function_call', id: this.#idOf('fc'), status: 'in_progress' },
      ...{ call_id, name, arguments: '' },
    }
    this.#output.push(item)
    const place = { item_id: item.id, output_index: this.#last }
    this.#tell('response.output_item.added', { output_index: this.#last, item: copied(item) })
    item.arguments = given
    item.status = 'completed'
    this.#tell('response.function_call_arguments.delta', { ...place, delta: given })
    this.#tell('response.function_call_arguments.done', { ...place, name, arguments: given })
    this.#tell('response.output_item.done', { output_index: this.#last, item: copied(item) })
  }

  get #last(): number {
    return this.#output.length - 1
  }

  #place(): { item_id: string; output_index: number; content_index: number } {
    return { item_id: this.#open!.id, output_index: this.#last, content_index: 0 }
  }

  #idOf(prefix: string): string {
    return `${prefix}_${this.id}_${this.#output.length}`
  }

  #tell(event: string, about: object): void {
    this.tell(event, { sequence_number: this.#count++, ...about })
  }

  #response(status: 'in_progress' | 'completed' | 'incomplete' | 'failed'): object {
    const asked = this.#asked
    const text = asked.text?.format ?? { type: 'text' }
    return {
      id: `resp_${this.id}`,
      object: 'response',
      created_at: this.head?.created ?? 0,
      status,
      background: false,
      error: null,
      incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
      instructions: asked.instructions ?? null,
      max_output_tokens: asked.max_output_tokens ?? null,
      model: this.head?.model ?? asked.model,
      output: this.#output.map(copied),
      parallel_tool_calls: asked.parallel_tool_calls ?? true,
      previous_response_id: null,
      reasoning: { effort: asked.reasoning?.effort ?? null, summary: null },
      store: false,
      temperature: asked.temperature ?? null,
      text: { format: text },
      tool_choice: asked.tool_choice ?? 'auto',
      tools: asked.tools ?? [],
      top_p: asked.top_p ?? null,
      truncation: 'disabled',
      usage: this.usage === undefined ? null : usageOf(this.usage),
      user: asked.user ?? null,
      metadata: asked.metadata ?? {},
    }
  }
}

function copied(item: Item): Item {
  return 'content' in item ? { ...item, content: item.content.map((part) => ({ ...part })) } : { ...item }
}

/** How many of the tokens were thought is not counted. */
function usageOf({ prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details }: Usage): object {
  return {
    input_tokens: prompt_tokens,
    input_tokens_details: { cached_tokens: prompt_tokens_details?.cached_tokens ?? 0 },
    output_tokens: completion_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens,
  }
}
