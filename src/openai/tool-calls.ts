/**
 * Finds the calls of tools in what a model writes. Models write them as text, each family in its own form; the form is
 * read off the chat template. What turns out to be no call stays text: nothing that the model wrote is lost.
 */
import { randomUUID } from 'node:crypto'
import type { ChatTemplate } from '../tokenizer/chat-template.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { AnswerReader, Found, WrittenCall } from './answer-reader.ts'
import type { Piece } from './generation.ts'
import { speaksHarmony } from './harmony.ts'
import { fieldText, objectAt, objectEnd, type WrittenObject } from './written-json.ts'

/**
 * How a family writes calls: `tagged` is {"name", "arguments"} between <tool_call> and </tool_call> (Hermes, Qwen, our own
 * template), `listed` is [TOOL_CALLS] before a list of such objects or before NAME[ARGS]{...} (Mistral), `bare` is an
 * answer that is {"name", "parameters"} as a whole (Llama 3.1 and later, with or without <|python_tag|>), `channels` messages with
 * a recipient (gpt-oss; harmony.ts reads them).
 */
export type CallForm = 'tagged' | 'listed' | 'bare' | 'channels'

export const tag = { open: '<tool_call>', close: '</tool_call>' }
export const listMark = '[TOOL_CALLS]'
export const argumentsMark = '[ARGS]'
export const pythonMark = '<|python_tag|>'
/** Special tokens that open calls; they have text only for who looks for calls. */
const marks = [tag.open, tag.close, listMark, argumentsMark, pythonMark]

/** The form of the template that sees the tools; templates of no known family are taken to mean `tagged` or `bare`. */
export function callFormsOf(template: ChatTemplate): readonly CallForm[] {
  if (speaksHarmony(template)) return ['channels']
  const source = template.sources.tool_use ?? Object.values(template.sources).join('\n')
  if (source.includes(tag.open)) return ['tagged']
  if (source.includes(listMark)) return ['listed']
  if (source.includes(pythonMark) || source.includes('"parameters"')) return ['bare']
  return ['tagged', 'bare']
}

/** Ids of the marks that this tokenizer knows as one token. */
export function markTokens(tokenizer: Tokenizer): ReadonlySet<number> {
  return new Set(marks.map((mark) => tokenizer.idOf(mark)).filter((id) => id !== undefined))
}

/** Reads one answer as it comes. */
export class CallReader implements AnswerReader {
  readonly #forms: readonly CallForm[]
  readonly #names: ReadonlySet<string>
  /** Text that may yet be a call, or space that may be nothing but the gap between two. */
  #held = ''
  #hasCalled = false
  /** Whether anything but space was let through or taken for a call. */
  #hasBegun: boolean

  /** `names` of the tools; `hasBegun` when some of the answer was shown elsewhere. */
  constructor(forms: readonly CallForm[], names: readonly string[], hasBegun = false) {
    this.#forms = forms
    this.#names = new Set(names)
    this.#hasBegun = hasBegun
  }

  /** Nothing waits for what comes next. */
  get isClear(): boolean {
    return this.#held === ''
  }

  push(text: string): Found {
    this.#held += text
    return this.#read(false)
  }

  /** The end of the answer: what is held is decided now. */
  flush(): Found {
    return this.#read(true)
  }

  #read(isEnd: boolean): Found {
    let text = ''
    const calls: WrittenCall[] = []
    for (;;) {
      const step = this.#step(isEnd)
      if (step === undefined) break
      this.#held = step.rest
      if (step.calls.length > 0) this.#hasCalled = true
      if (step.calls.length > 0 || step.text.trim() !== '') this.#hasBegun = true
      text += step.text
      calls.push(...step.calls)
    }
    if (!isEnd) return { text, calls }
    // Only space is left.
    if (!this.#hasCalled) text += this.#held
    this.#held = ''
    return { text, calls }
  }

  /** One certain thing at the beginning of what is held; undefined while there is none. */
  #step(isEnd: boolean): (Found & { rest: string }) | undefined {
    const held = this.#held
    if (held === '') return undefined
    if (this.#forms.includes('bare') && !this.#hasBegun) {
      const start = held.replace(/^[ \t\r\n]+/, '')
      const isOpen = start === '' || start.startsWith('{') || opens(pythonMark, start)
      if (isOpen && !isEnd) return undefined
      const calls = isOpen ? bareCalls(start, this.#names) : undefined
      if (calls !== undefined) return { text: '', calls, rest: '' }
      this.#hasBegun = true
    }
    const mark = this.#forms.includes('listed')
      ? listMark
      : this.#forms.includes('tagged')
        ? tag.open
        : undefined
    if (mark === undefined) return this.#plain(held, '')
    const at = held.indexOf(mark)
    if (at < 0) return this.#plain(held, isEnd ? '' : mark)
    // The space in front of a call, and between two, is layout: it goes with the call.
    const words = held.slice(0, at).trimEnd().length
    if (words > 0) return { text: held.slice(0, words), calls: [], rest: held.slice(words) }
    return mark === listMark ? this.#listed(held, isEnd) : this.#tagged(held, at, isEnd)
  }

  #plain(held: string, mark: string): (Found & { rest: string }) | undefined {
    let end = held.length
    if (mark !== '') {
      for (let length = Math.min(mark.length - 1, held.length); length > 0; length--) {
        if (!held.endsWith(mark.slice(0, length))) continue
        end -= length
        break
      }
      end = held.slice(0, end).trimEnd().length
    }
    if (end === 0 || held.slice(0, end).trim() === '') return undefined
    return { text: held.slice(0, end), calls: [], rest: held.slice(end) }
  }

  #tagged(held: string, at: number, isEnd: boolean): (Found & { rest: string }) | undefined {
    const close = this.#closeOf(held, at + tag.open.length)
    if (close < 0 && !isEnd) return undefined
    // Some models end without closing the last one.
    const inside = held.slice(at + tag.open.length, close < 0 ? undefined : close)
    const end = close < 0 ? held.length : close + tag.close.length
    const call = callOf(objectAt(inside.trim()))
    if (call !== undefined) return { text: '', calls: [call], rest: held.slice(end).trimStart() }
    return { text: held.slice(0, end), calls: [], rest: held.slice(end) }
  }

  /** Where the tag that closes a call stands, or -1: its arguments may hold another. */
  #closeOf(held: string, from: number): number {
    const first = held.indexOf(tag.close, from)
    if (first < 0) return first
    const start = held.slice(from).search(/\S/)
    const end = start < 0 ? undefined : objectEnd(held.slice(from + start))
    return end === undefined ? first : held.indexOf(tag.close, from + start + end)
  }

  #listed(held: string, isEnd: boolean): (Found & { rest: string }) | undefined {
    if (!isEnd) return undefined
    const calls: WrittenCall[] = []
    for (const part of held.split(listMark).slice(1)) {
      const found = part.includes(argumentsMark) ? namedCall(part) : listOfCalls(part.trim())
      if (found === undefined) return { text: held, calls: [], rest: '' }
      calls.push(...found)
    }
    return { text: '', calls, rest: '' }
  }
}

/** A call as clients get it, by its place among the calls of its answer. */
export interface NumberedCall {
  index: number
  id: string
  type: 'function'
  function: WrittenCall
}

/** A piece of an answer in which calls are told from text. */
export type CalledPiece = Piece & { calls: readonly NumberedCall[] }

/** Tells the calls of one answer from its text, piece by piece. */
export class AnswerCalls {
  readonly #reader: AnswerReader
  readonly #shortIds: boolean
  #ids: number[] = []
  #count = 0
  /** Code units of the next text that were shown in an earlier life. */
  #shownAhead = 0

  /** `shortIds`: of nine characters, as Mistral's templates want them. */
  constructor(reader: AnswerReader, shortIds = false) {
    this.#reader = reader
    this.#shortIds = shortIds
  }

  /** Takes up an answer of which this was written on another server, and so many code units shown. */
  resume(written: string, shown: number): void {
    const { text, calls } = this.#reader.push(written)
    this.#count += calls.length
    this.#shownAhead = Math.max(0, shown - text.length)
  }

  /** Undefined when there is nothing to say yet. */
  read(piece: Piece): CalledPiece | undefined {
    const found = this.#reader.push(piece.text)
    const rest = piece.finish === undefined ? undefined : this.#reader.flush()
    const whole = found.text + (rest?.text ?? '')
    const text = whole.slice(this.#shownAhead)
    this.#shownAhead -= whole.length - text.length
    const calls = [...found.calls, ...(rest?.calls ?? [])].map((call): NumberedCall => {
      return { index: this.#count++, id: this.#callId(), type: 'function', function: call }
    })
    // Tokens are told with their text: what is held here begins anew on another server.
    this.#ids.push(...piece.ids)
    const ids = this.#reader.isClear ? this.#ids.splice(0) : []
    const isEmpty = text === '' && calls.length === 0 && ids.length === 0 && piece.tokens.length === 0
    return isEmpty && piece.finish === undefined ? undefined : { ...piece, text, ids, calls }
  }

  get hasCalls(): boolean {
    return this.#count > 0
  }

  #callId(): string {
    const id = randomUUID().replaceAll('-', '')
    return this.#shortIds ? id.slice(0, 9) : `call_${id.slice(0, 24)}`
  }
}

/** Whether `text` begins with `mark` or may yet. */
function opens(mark: string, text: string): boolean {
  return text.startsWith(mark) || mark.startsWith(text)
}

/** A whole answer of one object, or several with semicolons between; only of tools that there are. */
function bareCalls(answer: string, names: ReadonlySet<string>): WrittenCall[] | undefined {
  let rest = answer.startsWith(pythonMark) ? answer.slice(pythonMark.length) : answer
  const calls: WrittenCall[] = []
  for (rest = rest.trim(); rest !== ''; ) {
    const end = objectEnd(rest)
    const call = end === undefined ? undefined : callOf(objectAt(rest.slice(0, end)))
    if (call === undefined || !names.has(call.name)) return undefined
    calls.push(call)
    rest = rest.slice(end).replace(/^[\s;]+/, '')
  }
  return calls.length === 0 ? undefined : calls
}

/** NAME[ARGS]{...}, where an id may stand behind the name. */
function namedCall(part: string): WrittenCall[] | undefined {
  const [front = '', json = ''] = part.split(argumentsMark, 2)
  const name = front.split('[CALL_ID]', 1)[0]!.trim()
  const object = objectAt(json.trim())
  return name === '' || object === undefined ? undefined : [{ name, arguments: json.trim() }]
}

function listOfCalls(text: string): WrittenCall[] | undefined {
  if (!text.startsWith('[') || !text.endsWith(']')) return undefined
  const calls: WrittenCall[] = []
  for (let rest = text.slice(1, -1).trim(); rest !== ''; ) {
    const end = objectEnd(rest)
    const call = end === undefined ? undefined : callOf(objectAt(rest.slice(0, end)))
    if (call === undefined) return undefined
    calls.push(call)
    rest = rest.slice(end).replace(/^\s*,?\s*/, '')
  }
  return calls
}

function callOf(object: WrittenObject | undefined): WrittenCall | undefined {
  if (object === undefined) return undefined
  const { name } = object.value
  const field = 'arguments' in object.value ? 'arguments' : 'parameters'
  const given = object.value[field]
  if (typeof name !== 'string' || name === '') return undefined
  if (given === undefined || given === null) return { name, arguments: '{}' }
  // Some models write the arguments as a text that is JSON.
  if (typeof given === 'string') return objectAt(given) && { name, arguments: given }
  if (typeof given !== 'object') return undefined
  // In the model's own words: a number of twenty digits would not survive being read.
  return { name, arguments: fieldText(object.text, field) ?? JSON.stringify(given) }
}
