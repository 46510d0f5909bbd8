/** Records of JSON: one a line (JSONL), or the items of one list that spans the file. */
import { messageOf, UserError } from '../../base/errors.ts'
import type { Line } from './lines.ts'
import { placeOf } from './sample.ts'

export interface RawRecord {
  value: unknown
  line: number
}

export async function* jsonLines(lines: AsyncIterable<Line[]>, file: string): AsyncGenerator<RawRecord> {
  for await (const chunk of lines) {
    for (const { text, number } of chunk) {
      if (text.trim() !== '') yield { value: parsed(text, file, number), line: number }
    }
  }
}

function parsed(text: string, file: string, line: number): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new UserError(`${placeOf({ file, line })}: this is not JSON: ${messageOf(error)}`, {
      fix: 'Correct or remove the record. JSONL takes one whole object a line.',
      cause: error,
    })
  }
}

/** An item is the text of one record. */
const itemCharactersMax = 64 << 20

/** The items of a list, each parsed when its text is complete, so that the list is never in memory as a whole. */
export async function* jsonList(lines: AsyncIterable<Line[]>, file: string): AsyncGenerator<RawRecord> {
  const splitter = new ListSplitter(file)
  for await (const chunk of lines) {
    for (const line of chunk) {
      for (const item of splitter.push(line))
        yield { value: parsed(item.text, file, item.number), line: item.number }
    }
  }
  splitter.end()
}

class ListSplitter {
  readonly #file: string
  /** 0 before the list, 1 between its items, more inside one. */
  #depth = 0
  #inText = false
  #escaped = false
  #closed = false
  #held = ''
  #heldLine = 1
  #line = 1

  constructor(file: string) {
    this.#file = file
  }

  push({ text, number }: Line): Line[] {
    const items: Line[] = []
    this.#line = number
    let start = 0
    for (let at = 0; at < text.length; at++) {
      if (this.#inText) this.#insideText(text.charCodeAt(at))
      else if (this.#depth === 0) {
        this.#outside(text[at]!)
        start = at + 1
      } else if (this.#isEndOfItem(text[at]!)) {
        this.#hold(text.slice(start, at))
        if (this.#held.trim() !== '') items.push({ text: this.#held, number: this.#heldLine })
        this.#held = ''
        start = at + 1
      }
    }
    if (this.#depth > 0) this.#hold(`${text.slice(start)}\n`)
    return items
  }

  end(): void {
    if (!this.#closed) throw this.#broken('the list has no end')
  }

  #insideText(unit: number): void {
    if (this.#escaped) this.#escaped = false
    else if (unit === 0x5c) this.#escaped = true
    else if (unit === 0x22) this.#inText = false
  }

  #outside(character: string): void {
    if (/\s/.test(character)) return
    if (character !== '[' || this.#closed)
      throw this.#broken(`nothing but one list is expected, not ${character}`)
    this.#depth = 1
  }

  /** Follows brackets and quotes; true where an item or the whole list ends. */
  #isEndOfItem(character: string): boolean {
    if (character === '"') this.#inText = true
    else if (character === '{' || character === '[') this.#depth++
    else if (character === '}' || character === ']') {
      this.#depth--
      this.#closed = this.#depth === 0
      return this.#closed
    }
    return character === ',' && this.#depth === 1
  }

  #hold(text: string): void {
    if (this.#held === '') {
      const trimmed = text.trimStart()
      this.#heldLine = this.#line
      this.#held = trimmed
    } else this.#held += text
    if (this.#held.length > itemCharactersMax) {
      throw this.#broken(`an item is longer than ${itemCharactersMax >> 20} million characters`)
    }
  }

  #broken(why: string): UserError {
    return new UserError(`${placeOf({ file: this.#file, line: this.#line })}: ${why}.`, {
      fix: 'A JSON file must be one list of records; JSONL, one record a line, is the better form.',
    })
  }
}
