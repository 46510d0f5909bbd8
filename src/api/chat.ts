import { z } from 'zod'
import type { Usage } from './completions.ts'
import {
  checkTogether,
  entries,
  functionFields,
  generationFields,
  list,
  maybe,
  only,
  textOrParts,
  unsupported,
} from './fields.ts'
import type { RequestLimits } from './limits.ts'

/** POST /v1/chat/completions: the body, with every null read as absent. Unknown fields are refused by name. */
export function chatRequest(limits: RequestLimits) {
  return z
    .strictObject({
      ...generationFields(limits),
      ...outsideFields,
      messages: list(message, limits.messagesMax).refine(
        (messages) => messages.length > 0,
        'Expected at least one message.',
      ),
      max_tokens: maybe(z.int().min(1)),
      max_completion_tokens: maybe(z.int().min(1)),
      logprobs: maybe(z.boolean()),
      top_logprobs: maybe(z.int().min(0).max(limits.logprobsMax)),
      tools: maybe(list(tool, limits.toolsMax)),
      tool_choice: maybe(toolChoice),
      // Without it an answer may call several tools.
      parallel_tool_calls: maybe(z.boolean()),
      reasoning_effort: maybe(z.string().max(32)),
      chat_template_kwargs: maybe(
        z
          .record(z.string(), z.unknown())
          .refine(
            (given) => JSON.stringify(given).length <= limits.templateCharactersMax,
            `Expected at most ${limits.templateCharactersMax} characters of JSON.`,
          ),
      ),
      // Beyond OpenAI, as vLLM and transformers name them: how the conversation ends that the model goes on with.
      add_generation_prompt: maybe(z.boolean()),
      continue_final_message: maybe(z.boolean()),
    })
    .superRefine((body, context) => {
      checkTogether(body, context)
      if (body.top_logprobs !== undefined && body.logprobs !== true) {
        context.addIssue({ code: 'custom', path: ['top_logprobs'], message: 'Only with logprobs: true.' })
      }
      checkToolChoice(body, context)
      if (body.continue_final_message === true) checkOpenMessage(body, context)
    })
}

const toolChoice = z.union(
  [
    z.enum(['auto', 'none', 'required']),
    z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) }),
  ],
  "Expected 'auto', 'none', 'required' or a function: {type: 'function', function: {name}}.",
)

/** What has to be called has to be there. */
function checkToolChoice(
  body: {
    tools?: readonly { function: { name: string } }[] | undefined
    tool_choice?: z.output<typeof toolChoice> | undefined
  },
  context: z.RefinementCtx,
): void {
  const { tools = [], tool_choice: choice } = body
  const refuse = (message: string) => context.addIssue({ code: 'custom', path: ['tool_choice'], message })
  if (choice === 'required' && tools.length === 0) refuse('There are no tools to call: give some in tools.')
  if (typeof choice !== 'object') return
  if (!tools.some((tool) => tool.function.name === choice.function.name))
    refuse(`No function of this name stands in tools: ${choice.function.name.slice(0, 64)}.`)
}

/** Only the beginning of an answer can be gone on with. */
function checkOpenMessage(
  body: { add_generation_prompt?: boolean | undefined; messages: readonly ChatMessage[] },
  context: z.RefinementCtx,
): void {
  const refuse = (path: PropertyKey[], message: string) => context.addIssue({ code: 'custom', path, message })
  if (body.add_generation_prompt === true)
    refuse(
      ['continue_final_message'],
      'Not together with add_generation_prompt: true, which opens a new message.',
    )
  const index = body.messages.length - 1
  const last = body.messages[index]!
  if (last.role !== 'assistant')
    refuse(['messages', index, 'role'], "With continue_final_message the last message is the assistant's.")
  else if ((last.tool_calls ?? []).length > 0)
    refuse(
      ['messages', index, 'tool_calls'],
      'A message that calls tools is over: continue_final_message has nothing to go on with.',
    )
}

/** OpenAI's fields about matters that this server does not have, or that change nothing here. */
const outsideFields = {
  metadata: maybe(entries(z.string(), z.string(), 64)),
  safety_identifier: maybe(z.string()),
  prompt_cache_key: maybe(z.string()),
  prompt_cache_retention: maybe(z.string()),
  store: only([false], 'Answers are not stored.'),
  service_tier: only(['auto', 'default'], 'There is one service tier here.'),
  modalities: maybe(list(only(['text'], 'This model writes text only.'), 8)),
  verbosity: only(['medium'], 'This model has no verbosity setting.'),
  audio: unsupported('This model writes text only.'),
  prediction: unsupported('Predicted outputs are not supported.'),
  web_search_options: unsupported('There is no web search here.'),
  moderation: unsupported('There is no moderation here.'),
  functions: unsupported('Use tools instead of the deprecated functions.'),
  function_call: unsupported('Use tool_choice instead of the deprecated function_call.'),
}

const toolCallsMax = 128
const content = textOrParts({ text: 'text' })
const name = maybe(z.string().max(256))

const toolCall = z.object({
  id: z.string(),
  type: z.literal('function'),
  function: z.object({ name: z.string(), arguments: z.string() }),
})

const message = z.discriminatedUnion(
  'role',
  [
    z.strictObject({ role: z.literal('system'), content, name }),
    z.strictObject({ role: z.literal('developer'), content, name }),
    z.strictObject({ role: z.literal('user'), content, name }),
    z.strictObject({
      role: z.literal('assistant'),
      content: maybe(textOrParts({ text: 'text', refusal: 'refusal' })),
      name,
      tool_calls: maybe(list(toolCall, toolCallsMax)),
      // Fields of answers, of ours and of other servers, so that a client can send one back as it came. Some
      // templates write what was thought.
      reasoning_content: maybe(z.string()),
      refusal: maybe(z.string()),
      annotations: maybe(z.array(z.unknown())),
      audio: unsupported('This model reads text only.'),
      function_call: unsupported('Use tool_calls instead of the deprecated function_call.'),
    }),
    z.strictObject({ role: z.literal('tool'), content, name, tool_call_id: z.string() }),
  ],
  'Expected a role of system, developer, user, assistant or tool.',
)

const tool = z.object({
  type: z.literal('function', 'Only tools of the type function are supported.'),
  function: z.object(functionFields),
})

export type ChatRequest = z.output<ReturnType<typeof chatRequest>>
export type ChatMessage = z.output<typeof message>

export interface ChatTopLogprob {
  token: string
  logprob: number
  bytes: number[]
}

export interface ChatTokenLogprob extends ChatTopLogprob {
  top_logprobs: ChatTopLogprob[]
}

export interface ChatLogprobs {
  content: ChatTokenLogprob[]
  refusal: null
}

export interface ChatToolCall {
  id: string
  type: 'function'
  function: { name: string; arguments: string }
}

export interface ChatCompletion {
  id: string
  object: 'chat.completion'
  created: number
  model: string
  choices: {
    index: number
    message: { role: 'assistant'; content: string | null; refusal: null; tool_calls?: ChatToolCall[] }
    logprobs: ChatLogprobs | null
    finish_reason: 'stop' | 'length' | 'tool_calls'
  }[]
  usage: Usage
}

export interface ChatChunk {
  id: string
  object: 'chat.completion.chunk'
  created: number
  model: string
  choices: {
    index: number
    /** A call comes whole, with its place among the calls of the answer. */
    delta: { role?: 'assistant'; content?: string; tool_calls?: (ChatToolCall & { index: number })[] }
    logprobs: ChatLogprobs | null
    finish_reason: 'stop' | 'length' | 'tool_calls' | null
  }[]
  usage?: Usage | null
}
