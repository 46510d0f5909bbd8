/** Conversations in OpenAI's fine-tuning form, checked field by field, and ShareGPT's form turned into it. */
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { placeOf, type SourceLine } from './sample.ts'

/** One conversation holds no more messages; each answer costs a rendering of all before it. */
const messagesMax = 2048
const partsMax = 4096
const toolsMax = 512

const part = z.looseObject({
  type: z.literal('text', 'only parts of the type text can be learned from'),
  text: z.string(),
})

const toolCall = z.looseObject({
  function: z.looseObject({
    name: z.string().min(1),
    arguments: z.union([z.string(), z.record(z.string(), z.unknown())]),
  }),
})

/** Fields that are not named here reach the template as they are: reasoning_content and the like. */
const message = z
  .looseObject({
    role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
    content: z
      .union([z.string(), z.array(part).max(partsMax)], 'expected a text or a list of text parts')
      .nullish(),
    /** How much an answer counts; OpenAI writes 0 or 1. */
    weight: z.number().min(0).max(1).nullish(),
    tool_calls: z.array(toolCall).max(128).nullish(),
    function_call: z.null('use tool_calls instead of the deprecated function_call').optional(),
  })
  .transform(({ content, weight, tool_calls, function_call: _, ...more }): Message => {
    const text = Array.isArray(content) ? content.map(({ text }) => text).join('\n') : (content ?? null)
    return {
      ...more,
      content: text,
      ...(typeof weight === 'number' && { weight }),
      ...(tool_calls != null && tool_calls.length > 0 && { tool_calls }),
    }
  })

const messageList = z
  .array(message, 'expected a list of messages')
  .min(1, 'expected a message')
  .max(messagesMax)

const tool = z.looseObject({ function: z.looseObject({ name: z.string().min(1) }) })
const toolList = z.array(tool, 'expected a list of tools').max(toolsMax)

export interface Message {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool'
  content: string | null
  weight?: number
  tool_calls?: readonly { function: { name: string; arguments: unknown } }[]
  [more: string]: unknown
}

export interface Conversation {
  messages: readonly Message[]
  tools?: readonly unknown[]
  /** Further variables for the template, such as parallel_tool_calls. */
  extra?: Readonly<Record<string, unknown>>
}

export function messagesFrom(value: unknown, field: string, source: SourceLine): Message[] {
  return checked(messageList, value, field, source)
}

/** Tools in OpenAI's form; functions without the wrapping, and a list that is written as text, are wrapped. */
export function toolsFrom(value: unknown, field: string, source: SourceLine): readonly unknown[] | undefined {
  if (value === undefined || value === null || value === '') return undefined
  const list = typeof value === 'string' ? parsedText(value, field, source) : value
  const wrapped = Array.isArray(list) ? list.map(wrappedTool) : list
  const tools = checked(toolList, wrapped, field, source)
  return tools.length === 0 ? undefined : tools
}

function wrappedTool(tool: unknown): unknown {
  const isBare = typeof tool === 'object' && tool !== null && 'name' in tool && !('function' in tool)
  return isBare ? { type: 'function', function: tool } : tool
}

/** A text, or what stands in a CSV field instead. */
export function textFrom(value: unknown, field: string, source: SourceLine): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  throw wrongField(source, field, 'expected a text')
}

export function wrongField(source: SourceLine, field: string, why: string): UserError {
  return new UserError(`${placeOf(source)}: ${field}: ${why}.`, {
    fix: 'Correct the record, or name its fields by columns: {prompt: ..., completion: ...}.',
  })
}

function checked<Value>(schema: z.ZodType<Value>, value: unknown, field: string, source: SourceLine): Value {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  throw wrongField(source, [field, ...issue.path].join('.'), issue.message.replace(/\.$/, ''))
}

function parsedText(text: string, field: string, source: SourceLine): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw wrongField(source, field, `the text is not JSON: ${error.message}`)
  }
}

/** ShareGPT's names of speakers. */
const speakers: Readonly<Record<string, Message['role'] | 'call'>> = {
  system: 'system',
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  assistant: 'assistant',
  model: 'assistant',
  chatgpt: 'assistant',
  function_call: 'call',
  observation: 'tool',
  function_response: 'tool',
  tool: 'tool',
}

const turn = z.looseObject({ from: z.string(), value: z.string(), weight: z.number().nullish() })

/** Messages of ShareGPT's {from, value} form, or of OpenAI's where they are that already. */
export function messagesFromTurns(value: unknown, field: string, source: SourceLine): Message[] {
  const list = Array.isArray(value) ? value : [value]
  const has = (name: string) => (item: unknown) => typeof item === 'object' && item !== null && name in item
  // With `content` somebody meant messages, and left a role out.
  if (list.every(has('role')) || (list.some(has('content')) && !list.some(has('from')))) {
    return messagesFrom(list, field, source)
  }
  const turns = checked(z.array(turn).min(1).max(messagesMax), list, field, source)
  const messages = turns.map(({ from, value: text, weight }, index) => {
    const role = speakers[from]
    const path = `${field}.${index}`
    if (role === undefined) {
      throw wrongField(source, `${path}.from`, `${from} is none of ${Object.keys(speakers).join(', ')}`)
    }
    const counted = weight == null ? {} : { weight }
    if (role !== 'call') return { role, content: text, ...counted }
    return { role: 'assistant', content: null, tool_calls: callsFrom(text, path, source), ...counted }
  })
  return messagesFrom(messages, field, source)
}

function callsFrom(text: string, path: string, source: SourceLine): unknown[] {
  const value = parsedText(text, `${path}.value`, source)
  return (Array.isArray(value) ? value : [value]).map((call) => ({ type: 'function', function: call }))
}
