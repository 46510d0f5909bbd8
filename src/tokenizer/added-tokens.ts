import type { JsonFields } from './json-fields.ts'
import type { Normalizer } from './normalizer.ts'

/** A token that is found in the text before anything else happens to it (AddedToken of tokenizer.json). */
export interface AddedToken {
  id: number
  content: string
  /** Left out of decoded text on request, and recognised in text only where special tokens are. */
  special: boolean
  /** Match only between characters that are no letters, digits or _. */
  singleWord: boolean
  /** Swallow the white space before (lstrip) or behind (rstrip) it. */
  stripLeft: boolean
  stripRight: boolean
  /** Look for it in the normalized text instead of the raw one. */
  normalized: boolean
}

export function addedTokensFromJson(json: JsonFields): AddedToken[] {
  if (json.raw('added_tokens') === undefined) return []
  return json.fieldsList('added_tokens').map((fields) => ({
    id: fields.count('id'),
    content: fields.string('content'),
    special: fields.boolean('special', false),
    singleWord: fields.boolean('single_word', false),
    stripLeft: fields.boolean('lstrip', false),
    stripRight: fields.boolean('rstrip', false),
    normalized: fields.boolean('normalized', true),
  }))
}

/** A stretch of text that holds no added token, or the id of one. `start` is its place in what was split. */
export type Segment = { text: string; start: number } | { token: number; start: number }

/** Which tokens are looked for. */
interface Sought {
  parseSpecial: boolean
  plainAt?: ReadonlySet<number> | undefined
  unread?: ReadonlySet<number> | undefined
}

/**
 * Splits text at added tokens: first those looked for in raw text, then, between them, the text is normalized
 * and the others are looked for. The leftmost match wins, the longest of those at one place.
 */
export class AddedTokenSplitter {
  readonly #raw: TokenFinder
  readonly #normalized: TokenFinder
  readonly #normalizer: Normalizer | undefined

  constructor(tokens: readonly AddedToken[], normalizer: Normalizer | undefined) {
    this.#normalizer = normalizer
    this.#raw = new TokenFinder(
      tokens.filter((token) => !token.normalized).map((token) => ({ token, key: token.content })),
    )
    this.#normalized = new TokenFinder(
      tokens
        .filter((token) => token.normalized)
        .map((token) => ({
          token,
          key: normalizer === undefined ? token.content : normalizer(token.content),
        })),
    )
  }

  /**
   * Segments of `text`, their texts normalized. Those in which `start` is 0 begin the text. No special token
   * begins at a place in `plainAt`, and no token in `unread` anywhere.
   */
  split(text: string, { parseSpecial, plainAt = none, unread = none }: Sought): Segment[] {
    const segments: Segment[] = []
    for (const outer of this.#raw.split(text, { parseSpecial, plainAt, unread })) {
      if ('token' in outer) segments.push(outer)
      else {
        const normal = this.#normalizer === undefined ? outer.text : this.#normalizer(outer.text)
        // Normalizing moves characters: a stretch that has a plain place is plain as a whole here.
        const parses = parseSpecial && !hasPlace(plainAt, outer.start, outer.start + outer.text.length)
        for (const inner of this.#normalized.split(normal, { parseSpecial: parses, unread }))
          segments.push({ ...inner, start: outer.start + inner.start })
      }
    }
    return segments
  }
}

const none: ReadonlySet<number> = new Set()

function hasPlace(places: ReadonlySet<number>, start: number, end: number): boolean {
  if (places.size === 0) return false
  for (let at = start; at < end; at++) if (places.has(at)) return true
  return false
}

/** A node of the trie over UTF-16 units. */
interface TrieNode {
  next: Map<number, TrieNode>
  token: AddedToken | undefined
}

class TokenFinder {
  readonly #root: TrieNode = { next: new Map(), token: undefined }
  /** 1 for the units that begin a token: nearly all text is passed over by this table alone. */
  readonly #begins: Uint8Array | undefined

  constructor(entries: readonly { token: AddedToken; key: string }[]) {
    if (entries.length > 0) this.#begins = new Uint8Array(0x10000)
    for (const { token, key } of entries) {
      if (key === '') continue
      this.#begins![key.charCodeAt(0)] = 1
      let node = this.#root
      for (let i = 0; i < key.length; i++) {
        const unit = key.charCodeAt(i)
        let child = node.next.get(unit)
        if (child === undefined) {
          child = { next: new Map(), token: undefined }
          node.next.set(unit, child)
        }
        node = child
      }
      node.token = token
    }
  }

  split(text: string, { parseSpecial, plainAt = none, unread = none }: Sought): Segment[] {
    const begins = this.#begins
    if (begins === undefined) return text === '' ? [] : [{ text, start: 0 }]
    const segments: Segment[] = []
    let done = 0
    for (let at = 0; at < text.length; at++) {
      if (begins[text.charCodeAt(at)] === 0) continue
      const found = this.#longestAt(text, at)
      if (found === undefined) continue
      const { token, end } = found
      at = end - 1
      if (token.special && (!parseSpecial || plainAt.has(found.start))) continue
      if (unread.has(token.id)) continue
      if (token.singleWord && !standsAlone(text, found.start, end)) continue
      const start = token.stripLeft ? Math.max(done, spaceStart(text, found.start)) : found.start
      if (start > done) segments.push({ text: text.slice(done, start), start: done })
      segments.push({ token: token.id, start })
      done = token.stripRight ? spaceEnd(text, end) : end
      at = Math.max(at, done - 1)
    }
    if (done < text.length) segments.push({ text: text.slice(done), start: done })
    return segments
  }

  #longestAt(text: string, start: number): { token: AddedToken; start: number; end: number } | undefined {
    let node: TrieNode | undefined = this.#root
    let found: { token: AddedToken; start: number; end: number } | undefined
    for (let at = start; at < text.length; at++) {
      node = node.next.get(text.charCodeAt(at))
      if (node === undefined) break
      if (node.token !== undefined) found = { token: node.token, start, end: at + 1 }
    }
    return found
  }
}

const wordEnds = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const wordBegins = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u

function standsAlone(text: string, start: number, end: number): boolean {
  return (
    !wordEnds.test(text.slice(Math.max(0, start - 2), start)) && !wordBegins.test(text.slice(end, end + 2))
  )
}

function spaceStart(text: string, end: number): number {
  let start = end
  while (start > 0 && /\p{White_Space}/u.test(text[start - 1]!)) start--
  return start
}

function spaceEnd(text: string, start: number): number {
  let end = start
  while (end < text.length && /\p{White_Space}/u.test(text[end]!)) end++
  return end
}
