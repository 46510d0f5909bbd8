/**
 * POST /v1/responses, as OpenAI's newer clients ask: the body, and the chat that it means. Nothing is stored, so a
 * conversation comes whole each time, which is what clients with `store: false` do anyway.
 */
import { z } from 'zod'
import {
  chosen,
  functionFields,
  generationFields,
  list,
  maybe,
  only,
  schemaFields,
  textOrParts,
  unsupported,
} from './fields.ts'
import type { RequestLimits } from './limits.ts'

const includesMax = 16

/** Fields of what a client got and sends back as it came. */
const came = { id: maybe(z.string()), status: maybe(z.string()) }
const asMessage = { type: maybe(z.literal('message')), ...came }

const message = z.discriminatedUnion(
  'role',
  [
    z.strictObject({
      ...{ ...asMessage, role: z.literal(['user', 'system', 'developer']) },
      content: textOrParts({ input_text: 'text' }),
    }),
    z.strictObject({
      ...{ ...asMessage, role: z.literal('assistant'), phase: maybe(z.string()) },
      content: textOrParts({ output_text: 'text', refusal: 'refusal', input_text: 'text' }),
    }),
  ],
  'Expected a role of user, assistant, system or developer.',
)

const typed = z.discriminatedUnion(
  'type',
  [
    z.strictObject({
      ...{ ...came, type: z.literal('function_call') },
      ...{ call_id: z.string(), name: z.string(), arguments: z.string() },
    }),
    z.strictObject({
      ...{ ...came, type: z.literal('function_call_output') },
      ...{ call_id: z.string(), output: textOrParts({ input_text: 'text', output_text: 'text' }) },
    }),
    z.strictObject({
      ...{ ...came, type: z.literal('reasoning'), encrypted_content: maybe(z.string()) },
      summary: maybe(textOrParts({ summary_text: 'text' })),
      content: maybe(textOrParts({ reasoning_text: 'text' })),
    }),
  ],
  'Expected an item of the type message, function_call, function_call_output or reasoning.',
)

const isMessage = (item: unknown) =>
  typeof item === 'object' &&
  item !== null &&
  'role' in item &&
  (!('type' in item) || item.type === 'message' || item.type === undefined)

const item = chosen((given) => (isMessage(given) ? message : typed))

const tool = z.strictObject({
  type: z.literal('function', 'Only tools of the type function are supported.'),
  ...functionFields,
})

const toolChoice = z.union(
  [z.enum(['auto', 'none', 'required']), z.strictObject({ type: z.literal('function'), name: z.string() })],
  "Expected 'auto', 'none', 'required' or a function: {type: 'function', name}.",
)

const format = z.discriminatedUnion(
  'type',
  [
    z.strictObject({ type: z.literal('text') }),
    z.strictObject({ type: z.literal('json_object') }),
    z.strictObject({ type: z.literal('json_schema'), ...schemaFields }),
  ],
  'Expected a type of text, json_object or json_schema.',
)

/** Fields that mean the same in a chat. */
const alike = [
  ...['model', 'temperature', 'top_p', 'presence_penalty', 'frequency_penalty', 'seed', 'stop', 'user'],
  ...['top_k', 'min_p', 'repetition_penalty', 'min_tokens', 'priority', 'cache_salt', 'pin_prefix_seconds'],
] as const

const stored = 'Answers are not stored here: send the whole conversation in input.'

/** The body, with every null read as absent. Unknown fields are refused by name. */
export function responsesRequest(limits: RequestLimits) {
  const fields = generationFields(limits)
  return z.strictObject({
    ...(Object.fromEntries(alike.map((name) => [name, fields[name]])) as Pick<
      typeof fields,
      (typeof alike)[number]
    >),
    input: z.union([z.string(), list(item, limits.messagesMax)], 'Expected a text or a list of items.'),
    instructions: maybe(z.string()),
    max_output_tokens: maybe(z.int().min(1)),
    stream: fields.stream,
    stream_options: maybe(z.strictObject({ include_obfuscation: maybe(z.boolean()) })),
    tools: maybe(list(tool, limits.toolsMax)),
    tool_choice: maybe(toolChoice),
    parallel_tool_calls: maybe(z.boolean()),
    text: maybe(
      z.strictObject({
        format: maybe(format),
        verbosity: only(['medium'], 'This model has no verbosity setting.'),
      }),
    ),
    reasoning: maybe(
      z.strictObject({
        effort: maybe(z.string().max(32)),
        summary: only(['auto'], 'What was thought is not summarised: it comes whole, as reasoning_text.'),
        generate_summary: unsupported('What was thought is not summarised: it comes whole.'),
      }),
    ),
    chat_template_kwargs: maybe(z.record(z.string(), z.unknown())),
    metadata: maybe(z.record(z.string(), z.string())),
    safety_identifier: maybe(z.string()),
    prompt_cache_key: maybe(z.string()),
    prompt_cache_retention: maybe(z.string()),
    include: maybe(
      list(
        z.literal('reasoning.encrypted_content', 'Nothing else than the answer is included here.'),
        includesMax,
      ),
    ),
    store: only([false], 'Answers are not stored.'),
    background: only([false], 'Answers are made while the client waits.'),
    truncation: only(['disabled'], 'A conversation that is too long is refused: shorten it.'),
    service_tier: only(['auto', 'default'], 'There is one service tier here.'),
    previous_response_id: unsupported(stored),
    conversation: unsupported(stored),
    prompt: unsupported('There are no prompt templates here: write it into instructions and input.'),
    max_tool_calls: unsupported('Only functions of the client are called here.'),
    top_logprobs: unsupported('Ask /v1/chat/completions for log-probabilities.'),
  })
}

export type ResponsesRequest = z.output<ReturnType<typeof responsesRequest>>

/** What the same is called in a chat's body, the longest first: for whoever is told what was wrong. */
const chatNames: readonly (readonly [string, string])[] = [
  ['response_format.json_schema', 'text.format'],
  ['response_format', 'text.format'],
  ['max_completion_tokens', 'max_output_tokens'],
  ['max_tokens', 'max_output_tokens'],
  ['reasoning_effort', 'reasoning.effort'],
  ['messages', 'input'],
]

/** The field of the asked body that became `param` of a chat's. */
export function fieldOfResponses(param: string): string {
  const named = chatNames.find(([name]) => param === name || param.startsWith(`${name}.`))
  const field = named === undefined ? param : named[1] + param.slice(named[0].length)
  return field.replace(/^(tools\.\d+|tool_choice)\.function\b/, '$1')
}

/** The body for /v1/chat/completions that asks for the same. */
export function chatOfResponses(body: ResponsesRequest): Record<string, unknown> {
  const { format } = body.text ?? {}
  const { tools, tool_choice: choice } = body
  const same = Object.fromEntries(alike.map((name) => [name, body[name]]))
  const chat = {
    ...same,
    messages: messagesOf(body),
    max_completion_tokens: body.max_output_tokens,
    ...(body.stream === true && { stream: true, stream_options: { include_usage: true } }),
    tools: tools?.map(({ type, ...definition }) => ({ type, function: definition })),
    tool_choice: typeof choice === 'object' ? { type: choice.type, function: { name: choice.name } } : choice,
    parallel_tool_calls: body.parallel_tool_calls,
    response_format: format?.type === 'json_schema' ? asChatFormat(format) : format,
    reasoning_effort: body.reasoning?.effort,
    chat_template_kwargs: body.chat_template_kwargs,
  }
  return Object.fromEntries(Object.entries(chat).filter(([, value]) => value !== undefined))
}

function asChatFormat({ type, ...json_schema }: Extract<z.output<typeof format>, { type: 'json_schema' }>) {
  return { type, json_schema }
}

interface Message {
  role: string
  content: string | null
  reasoning_content?: string
  tool_calls?: object[]
  tool_call_id?: string
}

/** What was thought and called belongs to the assistant's message that it stands beside. */
function messagesOf({ instructions, input }: ResponsesRequest): Message[] {
  const messages: Message[] = instructions === undefined ? [] : [{ role: 'system', content: instructions }]
  if (typeof input === 'string') return [...messages, { role: 'user', content: input }]
  let thought: string | undefined
  const assistant = (content: string | null): Message => {
    const said: Message = { role: 'assistant', content }
    if (thought !== undefined) said.reasoning_content = thought
    thought = undefined
    messages.push(said)
    return said
  }
  for (const one of input) {
    if ('role' in one) {
      if (one.role === 'assistant') assistant(one.content)
      else messages.push({ role: one.role, content: one.content })
    } else if (one.type === 'reasoning') thought = one.content ?? one.summary
    else if (one.type === 'function_call_output')
      messages.push({ role: 'tool', tool_call_id: one.call_id, content: one.output })
    else {
      const last = messages.at(-1)
      const caller = last?.role === 'assistant' && thought === undefined ? last : assistant(null)
      const { call_id: id, name, arguments: given } = one
      ;(caller.tool_calls ??= []).push({ id, type: 'function', function: { name, arguments: given } })
    }
  }
  return messages
}
