import { UserError } from '../base/errors.ts'
import type { Tokenizer } from './tokenizer.ts'

interface Node {
  next: Map<number, Node>
  isEnd: boolean
}

/**
 * Keeps what people wrote (clients, data sets) from being read as special tokens, which are for the chat template alone: text
 * that spells `<|im_start|>` must not open a message.
 *
 * The first character of each such spelling is veiled by a stand-in while the template works on it. In the
 * rendered text the veil is lifted again, and where it was no special token may begin. Everything else about
 * the text, its tokens included, is as without the veil.
 */
export class SpecialSpellings {
  /** The texts of all special tokens. */
  readonly texts: readonly string[]
  readonly #root: Node = { next: new Map(), isEnd: false }

  constructor(tokenizer: Tokenizer) {
    const texts: string[] = []
    for (let token = 0; token < tokenizer.vocabularySize; token++) {
      const text = tokenizer.isSpecial(token) ? tokenizer.textOf(token) : undefined
      if (text !== undefined && text !== '') texts.push(text)
    }
    for (const text of texts) this.#add(text)
    this.texts = texts
  }

  /** What `render` makes of `written`, and the places where a special token is spelt that people wrote. */
  rendered<Written>(
    written: Written,
    render: (written: Written) => string,
  ): { text: string; plainAt?: ReadonlySet<number> } {
    const text = render(written)
    if (!this.occurIn(written)) return { text }
    const veil = this.veil(text, written)
    return veil.lift(render(veil.over(written)))
  }

  /** Whether some text in `value` (texts, lists, objects and their keys) spells a special token. */
  occurIn(value: unknown): boolean {
    if (typeof value === 'string') return this.#firstIn(value, 0) !== undefined
    if (typeof value !== 'object' || value === null) return false
    if (Array.isArray(value)) return value.some((item) => this.occurIn(item))
    return Object.entries(value).some(([key, item]) => this.occurIn(key) || this.occurIn(item))
  }

  /** A veil whose stand-ins occur neither in `rendered` nor in `written`. */
  veil(rendered: string, written: unknown): Veil {
    const taken = rendered + JSON.stringify(written)
    const standIns = new Map<string, string>()
    let candidate = privateUseFirst
    for (const unit of this.#root.next.keys()) {
      while (taken.includes(String.fromCharCode(candidate))) candidate++
      if (candidate > privateUseLast) {
        throw new UserError('The messages use up the private-use characters of Unicode.')
      }
      standIns.set(String.fromCharCode(unit), String.fromCharCode(candidate++))
    }
    return new Veil((text, from) => this.#firstIn(text, from), standIns)
  }

  #add(text: string): void {
    let node = this.#root
    for (let at = 0; at < text.length; at++) {
      const unit = text.charCodeAt(at)
      let next = node.next.get(unit)
      if (next === undefined) {
        next = { next: new Map(), isEnd: false }
        node.next.set(unit, next)
      }
      node = next
    }
    node.isEnd = true
  }

  #firstIn(text: string, from: number): number | undefined {
    for (let at = from; at < text.length; at++) if (this.#isAt(text, at)) return at
    return undefined
  }

  /**
   * True also where the text ends inside a spelling: what the template puts behind it may complete it. Not
   * inside one that begins like a word, or names of fields and roles would be taken for it.
   */
  #isAt(text: string, start: number): boolean {
    let node = this.#root
    for (let at = start; at < text.length; at++) {
      const next = node.next.get(text.charCodeAt(at))
      if (next === undefined) return false
      if (next.isEnd) return true
      node = next
    }
    return !/\w/.test(text[start]!)
  }
}

const privateUseFirst = 0xe000
const privateUseLast = 0xf8ff

export class Veil {
  readonly #firstIn: (text: string, from: number) => number | undefined
  readonly #standIns: ReadonlyMap<string, string>

  constructor(
    firstIn: (text: string, from: number) => number | undefined,
    standIns: ReadonlyMap<string, string>,
  ) {
    this.#firstIn = firstIn
    this.#standIns = standIns
  }

  /** A copy of plain data in which every spelling is veiled, in keys too. */
  over<Value>(value: Value): Value {
    return this.#over(value) as Value
  }

  /** The text as it was meant, and the places where a veil was. */
  lift(rendered: string): { text: string; plainAt: ReadonlySet<number> } {
    const originals = new Map([...this.#standIns].map(([original, standIn]) => [standIn, original]))
    const plainAt = new Set<number>()
    const text = rendered.replace(new RegExp(`[${[...originals.keys()].join('')}]`, 'g'), (standIn, at) => {
      plainAt.add(at)
      return originals.get(standIn)!
    })
    return { text, plainAt }
  }

  #over(value: unknown): unknown {
    if (typeof value === 'string') return this.#overText(value)
    if (typeof value !== 'object' || value === null) return value
    if (Array.isArray(value)) return value.map((item) => this.#over(item))
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [this.#overText(key), this.#over(item)]),
    )
  }

  #overText(text: string): string {
    let veiled = ''
    let done = 0
    for (let at = this.#firstIn(text, 0); at !== undefined; at = this.#firstIn(text, at + 1)) {
      veiled += text.slice(done, at) + this.#standIns.get(text[at]!)!
      done = at + 1
    }
    return done === 0 ? text : veiled + text.slice(done)
  }
}
