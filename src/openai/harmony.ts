/**
 * The harmony format of gpt-oss: an answer is messages, each with a header that says on which channel it is. What is on `analysis`
 * is thinking, which goes out between <think> and </think> as other models write it; `final` is the answer, and `commentary` words
 * in front of calls, or where it names a recipient (`to=functions.NAME`) the arguments of a call.
 */
import type { ChatTemplate } from '../tokenizer/chat-template.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { AnswerReader, Found } from './answer-reader.ts'
import { objectAt } from './written-json.ts'

export const harmonyMarks = {
  start: '<|start|>',
  channel: '<|channel|>',
  message: '<|message|>',
  end: '<|end|>',
  return: '<|return|>',
  call: '<|call|>',
  constrain: '<|constrain|>',
} as const

const thinking = { open: '<think>', close: '</think>' }

/** Whether a model with this template answers in channels. */
export function speaksHarmony(template: ChatTemplate): boolean {
  const { start, channel, message } = harmonyMarks
  return Object.values(template.sources).some((source) =>
    [start, channel, message].every((mark) => source.includes(mark)),
  )
}

/** Ids of the marks: only with their text can an answer be read. */
export function harmonyTokens(tokenizer: Tokenizer): ReadonlySet<number> {
  return new Set(
    Object.values(harmonyMarks)
      .map((mark) => tokenizer.idOf(mark))
      .filter((id) => id !== undefined),
  )
}

/** What a message is to who asked, by its header. */
type Kind = { is: 'thought' } | { is: 'said' } | { is: 'call'; name: string }

const { start, channel, message, end, call } = harmonyMarks
/** What ends a message; a model may forget to, and begin the next. */
const endings = [end, harmonyMarks.return, call, start, channel]
const allMarks = Object.values(harmonyMarks)

/** What is certain of a stretch of an answer: how it was written, and what of it is for who asked. */
export interface Step extends Found {
  written: string
}

/** Reads one answer as it comes; `calls` where there are tools, else what would be one is text. */
export class HarmonyReader implements AnswerReader {
  readonly #calls: boolean
  /** Not yet read: part of a header, of a mark or of a call. */
  #held = ''
  /** Of the message that is read; undefined within a header. */
  #kind: Kind | undefined
  /** Whether anything was read of the first header. */
  #hasBegun = false
  #thinking: 'none' | 'open' | 'over' = 'none'

  /** `opened`: the message in which the answer goes on. */
  constructor(calls: boolean, opened?: Opened) {
    this.#calls = calls
    if (opened === undefined) return
    this.#hasBegun = true
    this.#kind = { is: opened }
    if (opened === 'thought') this.#thinking = 'open'
  }

  get isClear(): boolean {
    return this.#held === ''
  }

  push(text: string): Found {
    return together(this.steps(text))
  }

  flush(): Found {
    return together(this.lastSteps())
  }

  /** As {@link push}: what was written in the steps so far, joined, is what was pushed, but for what is still open. */
  steps(text: string): Step[] {
    this.#held += text
    return this.#read(false)
  }

  /** As {@link flush}. */
  lastSteps(): Step[] {
    const steps = this.#read(true)
    const closed = this.#closed()
    return closed === '' ? steps : [...steps, { written: '', text: closed, calls: [] }]
  }

  #read(isEnd: boolean): Step[] {
    const steps: Step[] = []
    for (;;) {
      const before = this.#held
      const found = this.#kind === undefined ? this.#header(isEnd) : this.#body(this.#kind, isEnd)
      if (found === undefined) return steps
      steps.push({ ...found, written: before.slice(0, before.length - this.#held.length) })
    }
  }

  /** Reads a header that is whole; undefined while it is not. */
  #header(isEnd: boolean): Found | undefined {
    const held = this.#held
    const at = held.indexOf(message)
    if (at >= 0) {
      this.#held = held.slice(at + message.length)
      return this.#begin(kindOf(held.slice(0, at), this.#calls))
    }
    // What an answer is held to may leave no room for a header.
    const isText = isEnd ? !held.includes('<|') : !mayBeHeader(held)
    if (!this.#hasBegun && held !== '' && isText) return this.#begin({ is: 'said' })
    if (!isEnd || held === '') return undefined
    // A header without a message says nothing.
    this.#held = ''
    return unseen
  }

  #begin(kind: Kind): Found {
    this.#hasBegun = true
    this.#kind = kind
    if (kind.is !== 'thought') return { text: this.#closed(), calls: [] }
    const text = this.#thinking === 'over' ? '\n\n' : thinking.open
    this.#thinking = 'open'
    return { text, calls: [] }
  }

  /** What closes the thinking, where it is over and not closed. */
  #closed(): string {
    if (this.#thinking !== 'over') return ''
    this.#thinking = 'none'
    return thinking.close
  }

  /** Reads of words all that is certain, of calls only whole ones, and then the mark behind them. */
  #body(kind: Kind, isEnd: boolean): Found | undefined {
    const held = this.#held
    const found = firstOf(held, endings)
    const isCall = kind.is === 'call'
    if (found === undefined && isCall && !isEnd) return undefined
    const certain = found?.at ?? (isEnd ? held.length : held.length - beginningAtEnd(held))
    const body = held.slice(0, certain)
    if (!isCall && certain > 0) {
      this.#held = held.slice(certain)
      return { text: body, calls: [] }
    }
    if (found === undefined && !isCall) return undefined
    const isNext = found === undefined || found.mark === start || found.mark === channel
    this.#held = held.slice(certain + (isNext ? 0 : found.mark.length))
    this.#kind = undefined
    if (kind.is === 'thought') this.#thinking = 'over'
    return isCall ? callIn(kind.name, body) : unseen
  }
}

const unseen: Found = { text: '', calls: [] }

function together(steps: readonly Step[]): Found {
  return { text: steps.map(({ text }) => text).join(''), calls: steps.flatMap(({ calls }) => calls) }
}

/** A call is text where its arguments are no object. */
function callIn(name: string, body: string): Found {
  const given = body.trim() === '' ? '{}' : body.trim()
  if (objectAt(given) === undefined) return { text: body, calls: [] }
  return { text: '', calls: [{ name, arguments: given }] }
}

function kindOf(header: string, calls: boolean): Kind {
  const name = /\bto=functions\.([^\s<]+)/.exec(header)?.[1]
  if (name !== undefined && calls) return { is: 'call', name }
  const on = /<\|channel\|>\s*(\w+)/.exec(header)?.[1]
  return { is: on === 'analysis' ? 'thought' : 'said' }
}

/** Whether a text may be the beginning of the first header. */
function mayBeHeader(held: string): boolean {
  return [start, channel, message, 'assistant', ' to='].some(
    (opening) => held.startsWith(opening) || opening.startsWith(held),
  )
}

function firstOf(text: string, marks: readonly string[]): { at: number; mark: string } | undefined {
  let first: { at: number; mark: string } | undefined
  for (const mark of marks) {
    const at = text.indexOf(mark)
    if (at >= 0 && (first === undefined || at < first.at)) first = { at, mark }
  }
  return first
}

/** Characters at the end that may be the beginning of a mark. */
function beginningAtEnd(text: string): number {
  const at = text.lastIndexOf('<')
  if (at < 0) return 0
  const tail = text.slice(at)
  return allMarks.some((mark) => mark.startsWith(tail)) ? tail.length : 0
}

/** What of an answer is open: its thinking, or what it says. */
export type Opened = 'thought' | 'said'

/** Behind what opens the assistant's turn: an answer that goes on with `content`, and what of it is open. */
export function openAnswer(content: string): { text: string; opened: Opened } {
  const on = (name: string, body: string) => `${channel}${name}${message}${body}`
  const thought = leadingThought.exec(content)
  if (thought !== null) {
    const said = on('final', content.slice(thought[0].length).trimStart())
    return { text: `${on('analysis', thought[1]!)}${end}${start}assistant${said}`, opened: 'said' }
  }
  const unclosed = /^\s*<think>([\s\S]*)$/.exec(content)
  if (unclosed === null) return { text: on('final', content), opened: 'said' }
  return { text: on('analysis', unclosed[1]!), opened: 'thought' }
}

/** What of a message's content is thinking, which templates of this format take by itself. */
const leadingThought = /^\s*<think>([\s\S]*?)<\/think>/

/**
 * An earlier answer as the template takes it. Thinking in front of a call is its content there; that in front of an answer is over.
 */
export function harmonyMessage<Message extends { role: string; content?: unknown }>(given: Message): Message {
  if (given.role !== 'assistant' || typeof given.content !== 'string') return given
  const thought = leadingThought.exec(given.content)
  if (thought === null) return given
  const rest = given.content.slice(thought[0].length)
  const isCall = 'tool_calls' in given && Array.isArray(given.tool_calls) && given.tool_calls.length > 0
  return { ...given, content: isCall && rest.trim() === '' ? thought[1] : rest }
}
