/** POST /v1/messages, as Anthropic's clients ask: the body, and the chat that it means. */
import { z } from 'zod'
import { chosen, generationFields, list, maybe, only, unsupported } from './fields.ts'
import type { RequestLimits } from './limits.ts'

const blocksMax = 4096

const cached = { cache_control: maybe(z.unknown()) }
const text = z.strictObject({
  ...{ type: z.literal('text'), text: z.string(), ...cached },
  citations: maybe(z.unknown()),
})
const toolUse = z.strictObject({
  ...{ type: z.literal('tool_use'), id: z.string(), name: z.string(), ...cached },
  ...{ input: z.record(z.string(), z.unknown()), caller: maybe(z.unknown()) },
})
const thinking = z.strictObject({
  ...{ type: z.literal('thinking'), thinking: z.string(), signature: maybe(z.string()) },
})
const redacted = z.strictObject({ type: z.literal('redacted_thinking'), data: z.string() })

const texts = z.union([z.string(), list(text, blocksMax)], 'Expected a text or a list of text blocks.')

const toolResult = z.strictObject({
  ...{ type: z.literal('tool_result'), tool_use_id: z.string(), ...cached },
  ...{ content: maybe(texts), is_error: maybe(z.boolean()) },
})

const userBlocks = list(
  z.discriminatedUnion(
    'type',
    [text, toolResult],
    'This model reads text only: Expected blocks of the type text or tool_result.',
  ),
  blocksMax,
)
const assistantBlocks = list(
  z.discriminatedUnion(
    'type',
    [text, toolUse, thinking, redacted],
    'Expected blocks of the type text, tool_use or thinking.',
  ),
  blocksMax,
)

const message = z.discriminatedUnion(
  'role',
  [
    z.strictObject({ role: z.literal('user'), content: textOr(userBlocks) }),
    z.strictObject({ role: z.literal('assistant'), content: textOr(assistantBlocks) }),
  ],
  'Expected a role of user or assistant.',
)

function textOr<Blocks extends z.ZodType>(blocks: Blocks) {
  return chosen<z.ZodString | Blocks>((given) => (typeof given === 'string' ? z.string() : blocks))
}

const tool = z.strictObject({
  type: maybe(
    z.literal('custom', 'Only tools of your own are supported: {name, description, input_schema}.'),
  ),
  name: z.string(),
  description: maybe(z.string()),
  input_schema: maybe(z.record(z.string(), z.unknown())),
  strict: maybe(z.boolean()),
  input_examples: maybe(z.unknown()),
  eager_input_streaming: maybe(z.boolean()),
  ...cached,
})

const parallel = { disable_parallel_tool_use: maybe(z.boolean()) }
const toolChoice = z.discriminatedUnion(
  'type',
  [
    z.strictObject({ type: z.literal('auto'), ...parallel }),
    z.strictObject({ type: z.literal('any'), ...parallel }),
    z.strictObject({ type: z.literal('tool'), name: z.string(), ...parallel }),
    z.strictObject({ type: z.literal('none') }),
  ],
  'Expected a type of auto, any, tool or none.',
)

const format = z.strictObject({
  type: z.literal('json_schema', 'Expected the type json_schema.'),
  schema: z.record(z.string(), z.unknown()),
})

/** The body, with every null read as absent. Unknown fields are refused by name. */
export function messagesRequest(limits: RequestLimits) {
  const { model, stream, temperature, top_p, top_k, seed, stop } = generationFields(limits)
  return z.strictObject({
    ...{ model, stream, temperature, top_p, top_k, seed },
    max_tokens: z.int().min(1),
    messages: list(message, limits.messagesMax),
    system: maybe(texts),
    stop_sequences: stop.pipe(z.array(z.string(), 'Expected a list of strings.').optional()),
    tools: maybe(list(tool, limits.toolsMax)),
    tool_choice: maybe(toolChoice),
    thinking: maybe(
      z.looseObject({
        type: z.enum(['enabled', 'disabled', 'adaptive'], 'Expected enabled, adaptive or disabled.'),
      }),
    ),
    output_config: maybe(z.strictObject({ format: maybe(format), effort: maybe(z.string().max(32)) })),
    chat_template_kwargs: maybe(z.record(z.string(), z.unknown())),
    metadata: maybe(z.looseObject({ user_id: maybe(z.string()) })),
    service_tier: only(['auto', 'standard_only'], 'There is one service tier here.'),
    // What it leaves out of long conversations is for the client to leave out.
    context_management: maybe(z.unknown()),
    container: unsupported('There are no containers here.'),
    mcp_servers: unsupported('Only tools of the client are called here.'),
  })
}

export type MessagesRequest = z.output<ReturnType<typeof messagesRequest>>

const chatNames: readonly (readonly [string, string])[] = [
  ['response_format.json_schema', 'output_config.format'],
  ['response_format', 'output_config.format'],
  ['max_completion_tokens', 'max_tokens'],
  ['reasoning_effort', 'output_config.effort'],
  ['stop', 'stop_sequences'],
]

/** The field of the asked body that became `param` of a chat's. */
export function fieldOfMessages(param: string): string {
  const named = chatNames.find(([name]) => param === name || param.startsWith(`${name}.`))
  const field = named === undefined ? param : named[1] + param.slice(named[0].length)
  return field
    .replace(/^(tools\.\d+)\.function\.parameters\b/, '$1.input_schema')
    .replace(/^(tools\.\d+)\.function\b/, '$1')
}

/** The body for /v1/chat/completions that asks for the same. */
export function chatOfMessages(body: MessagesRequest): Record<string, unknown> {
  const { model, temperature, top_p, top_k, seed, tool_choice: choice, thinking: thinks } = body
  const chat = {
    ...{ model, temperature, top_p, top_k, seed },
    messages: [...systemOf(body), ...body.messages.flatMap(messagesOf)],
    max_completion_tokens: body.max_tokens,
    ...(body.stream === true && { stream: true, stream_options: { include_usage: true } }),
    stop: body.stop_sequences?.length === 0 ? undefined : body.stop_sequences,
    tools: body.tools?.map(({ name, description, input_schema: parameters, strict }) => ({
      type: 'function',
      function: { name, description, parameters, strict },
    })),
    tool_choice: choice && choiceOf(choice),
    parallel_tool_calls:
      choice !== undefined &&
      'disable_parallel_tool_use' in choice &&
      choice.disable_parallel_tool_use === true
        ? false
        : undefined,
    response_format: body.output_config?.format && {
      type: 'json_schema',
      json_schema: { name: 'answer', schema: body.output_config.format.schema },
    },
    reasoning_effort: body.output_config?.effort,
    // As templates of models that think at will call it.
    chat_template_kwargs:
      thinks === undefined
        ? body.chat_template_kwargs
        : {
            enable_thinking: thinks.type !== 'disabled',
            ...(body.chat_template_kwargs as object | undefined),
          },
    user: body.metadata?.user_id,
  }
  return Object.fromEntries(Object.entries(chat).filter(([, value]) => value !== undefined))
}

function choiceOf(choice: z.output<typeof toolChoice>) {
  if (choice.type === 'tool') return { type: 'function', function: { name: choice.name } }
  return choice.type === 'any' ? 'required' : choice.type
}

function systemOf({ system }: MessagesRequest) {
  return system === undefined ? [] : [{ role: 'system', content: textOf(system) }]
}

function textOf(content: z.output<typeof texts>): string {
  return typeof content === 'string' ? content : content.map((block) => block.text).join('\n')
}

/** Results of tools are messages of their own in a chat, before what the user says beside them. */
function messagesOf({ role, content }: z.output<typeof message>): object[] {
  if (typeof content === 'string') return [{ role, content }]
  if (role === 'user') {
    const said = content.filter((block) => block.type === 'text')
    const results = content.filter((block) => block.type === 'tool_result')
    return [
      ...results.map(({ tool_use_id: tool_call_id, content: given }) => ({
        ...{ role: 'tool', tool_call_id, content: given === undefined ? '' : textOf(given) },
      })),
      ...(said.length > 0 || results.length === 0 ? [{ role, content: textOf(said) }] : []),
    ]
  }
  const said = content.filter((block) => block.type === 'text')
  const thought = content.flatMap((block) => (block.type === 'thinking' ? block.thinking : []))
  const calls = content.flatMap((block) =>
    block.type === 'tool_use'
      ? [
          {
            id: block.id,
            type: 'function',
            function: { name: block.name, arguments: JSON.stringify(block.input) },
          },
        ]
      : [],
  )
  return [
    {
      role,
      content: said.length === 0 && calls.length > 0 ? null : textOf(said),
      ...(thought.length > 0 && { reasoning_content: thought.join('\n') }),
      ...(calls.length > 0 && { tool_calls: calls }),
    },
  ]
}
