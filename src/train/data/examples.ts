/** What a record says, whatever its fields are called: a text, a conversation, a choice, a verdict. */
import { UserError } from '../../base/errors.ts'
import {
  type Conversation,
  type Message,
  messagesFrom,
  messagesFromTurns,
  textFrom,
  toolsFrom,
  wrongField,
} from './conversation.ts'
import type { DataRecord } from './records.ts'
import { placeOf, type SourceLine } from './sample.ts'

export const formats = ['chat', 'prompt', 'preferences', 'ratings', 'text'] as const
export type Format = (typeof formats)[number]

export type Example =
  | { kind: 'text'; text: string; source: SourceLine }
  | { kind: 'chat'; conversation: Conversation; source: SourceLine }
  | {
      kind: 'pair'
      prompt: Conversation
      chosen: readonly Message[]
      rejected: readonly Message[]
      source: SourceLine
    }
  | { kind: 'rating'; conversation: Conversation; desirable: boolean; source: SourceLine }

type Fields = Readonly<Record<string, unknown>>

/** Names under which questions and answers go in the data sets that are around; the first that is there counts. */
const promptNames = ['prompt', 'question', 'instruction']
const completionNames = ['completion', 'response', 'answer', 'output']

/** The format that a record's fields show, or undefined. */
export function formatOf(value: Fields): Format | undefined {
  const has = (name: string) => value[name] !== undefined && value[name] !== null
  if (has('preferred_output') || (has('chosen') && has('rejected'))) return 'preferences'
  const hasCompletion = completionNames.some(has)
  const isSaid = hasCompletion || has('messages') || has('conversations')
  if (isSaid && typeof value.label === 'boolean') return 'ratings'
  if (has('messages') || has('conversations')) return 'chat'
  if (hasCompletion && promptNames.some(has)) return 'prompt'
  return has('text') ? 'text' : undefined
}

const readers: { readonly [Name in Format]: (value: Fields, source: SourceLine) => Example } = {
  text: (value, source) => ({ kind: 'text', text: textFrom(value.text, 'text', source), source }),
  chat: (value, source) => ({ kind: 'chat', conversation: conversationFrom(value, source), source }),
  prompt: (value, source) => ({ kind: 'chat', conversation: promptFrom(value, source), source }),
  preferences: preferenceFrom,
  ratings: (value, source) => {
    const isPrompt = completionNames.some((name) => value[name] !== undefined)
    const conversation = isPrompt ? promptFrom(value, source) : conversationFrom(value, source)
    return { kind: 'rating', conversation, desirable: verdictFrom(value.label, source), source }
  },
}

/** Reads records of one file; the first one shows their format when `format` does not say it. */
export class ExampleReader {
  readonly #given: Format | undefined
  #format: Format | undefined

  constructor(format?: Format) {
    this.#given = format
    this.#format = format
  }

  get format(): Format | undefined {
    return this.#format
  }

  read({ value, source }: DataRecord): Example {
    this.#format ??= formatOf(value)
    if (this.#format === undefined) throw unknownFormat(value, source)
    try {
      return readers[this.#format](value, source)
    } catch (error) {
      // What is missing in another kind of record is not what is wrong with it.
      if (this.#given !== undefined || formatOf(value) === this.#format) throw error
      throw otherFormat(value, source, this.#format)
    }
  }
}

function otherFormat(value: Fields, source: SourceLine, first: Format): UserError {
  const own = formatOf(value) ?? 'no format that is known'
  return new UserError(
    `${placeOf(source)}: the fields ${namesOf(value)} are ${own}, and the first record of the file is ${first}.`,
    { failure: 'usage', fix: 'Put records of each kind into files of their own.' },
  )
}

const namesOf = (value: Fields) => Object.keys(value).join(', ').slice(0, 200)

function unknownFormat(value: Fields, source: SourceLine): UserError {
  return new UserError(`${placeOf(source)}: the fields ${namesOf(value)} are no format that is known.`, {
    failure: 'usage',
    fix: 'Name what they hold, for example columns: {prompt: Q, completion: A} or columns: {text: body}.',
  })
}

function conversationFrom(value: Fields, source: SourceLine): Conversation {
  if (value.functions !== undefined) {
    throw wrongField(source, 'functions', 'use tools instead of the deprecated functions')
  }
  const said =
    value.messages === undefined
      ? messagesFromTurns(value.conversations, 'conversations', source)
      : messagesFromTurns(value.messages, 'messages', source)
  const system = typeof value.system === 'string' && value.system !== '' ? value.system : undefined
  const messages: Message[] = system === undefined ? said : [{ role: 'system', content: system }, ...said]
  return withTools(messages, value, source)
}

function withTools(messages: readonly Message[], value: Fields, source: SourceLine): Conversation {
  const tools = toolsFrom(value.tools, 'tools', source)
  const { parallel_tool_calls } = value
  return {
    messages,
    ...(tools !== undefined && { tools }),
    ...(typeof parallel_tool_calls === 'boolean' && { extra: { parallel_tool_calls } }),
  }
}

function promptFrom(value: Fields, source: SourceLine): Conversation {
  const completionName = completionNames.find((name) => value[name] !== undefined)
  if (completionName === undefined) throw wrongField(source, 'completion', 'it is missing')
  const prompt = promptMessages(value, source)
  return withTools([...prompt, ...answerFrom(value[completionName], completionName, source)], value, source)
}

/** A prompt is a text, or messages; Alpaca's input goes behind its instruction. */
function promptMessages(value: Fields, source: SourceLine): Message[] {
  const name = promptNames.find((name) => value[name] !== undefined)
  if (name === undefined) throw wrongField(source, 'prompt', 'it is missing')
  if (Array.isArray(value[name])) return messagesFromTurns(value[name], name, source)
  const text = textFrom(value[name], name, source)
  const more = name === 'instruction' && typeof value.input === 'string' ? value.input : ''
  const user: Message = { role: 'user', content: more === '' ? text : `${text}\n\n${more}` }
  return typeof value.system === 'string' && value.system !== ''
    ? [{ role: 'system', content: value.system }, user]
    : [user]
}

function answerFrom(value: unknown, field: string, source: SourceLine): Message[] {
  if (typeof value === 'object' && value !== null) return messagesFromTurns(value, field, source)
  return [{ role: 'assistant', content: textFrom(value, field, source) }]
}

function preferenceFrom(value: Fields, source: SourceLine): Example {
  if (value.preferred_output !== undefined) {
    const { input } = value
    if (typeof input !== 'object' || input === null) throw wrongField(source, 'input', 'expected an object')
    return {
      kind: 'pair',
      prompt: conversationFrom(input as Fields, source),
      chosen: messagesFrom(value.preferred_output, 'preferred_output', source),
      rejected: messagesFrom(value.non_preferred_output, 'non_preferred_output', source),
      source,
    }
  }
  const chosen = answerFrom(value.chosen, 'chosen', source)
  const rejected = answerFrom(value.rejected, 'rejected', source)
  const isChat = value.messages !== undefined || value.conversations !== undefined
  const hasPrompt = promptNames.some((name) => value[name] !== undefined)
  const prompt = isChat
    ? conversationFrom(value, source)
    : withTools(hasPrompt ? promptMessages(value, source) : [], value, source)
  return { kind: 'pair', ...parted(prompt, chosen, rejected), source }
}

/** Answers that repeat the conversation begin differently only where they are answers. */
function parted(prompt: Conversation, chosen: readonly Message[], rejected: readonly Message[]) {
  let shared = 0
  while (
    shared < Math.min(chosen.length, rejected.length) - 1 &&
    JSON.stringify(chosen[shared]) === JSON.stringify(rejected[shared])
  )
    shared++
  const repeats = JSON.stringify(chosen.slice(0, prompt.messages.length)) === JSON.stringify(prompt.messages)
  const before = repeats ? [] : prompt.messages
  return {
    prompt: { ...prompt, messages: [...before, ...chosen.slice(0, shared)] },
    chosen: chosen.slice(shared),
    rejected: rejected.slice(shared),
  }
}

const verdicts: Readonly<Record<string, boolean>> = { true: true, '1': true, false: false, '0': false }

function verdictFrom(value: unknown, source: SourceLine): boolean {
  const verdict = verdicts[String(value).toLowerCase()]
  if (verdict === undefined) throw wrongField(source, 'label', 'expected true or false')
  return verdict
}
