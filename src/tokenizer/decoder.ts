import { UserError } from '../base/errors.ts'
import { fallbackByte, fromByteCharacters } from './byte-characters.ts'
import { JsonFields, unknownComponent } from './json-fields.ts'
import { patternFromJson } from './normalizer.ts'

/**
 * What pieces stand for. A text is the bytes of its pieces, one behind the other, less what `leading` takes
 * from its beginning; so a text can be decoded piece by piece, and a longer one never changes what was said.
 *
 * One difference to the Rust library follows: there a run of byte-fallback pieces that is not UTF-8 as a whole
 * gives one U+FFFD for each byte, here only the broken part is replaced (as in ByteLevel, and llama.cpp).
 */
export interface Decoder {
  /** `added` marks an added token: byte-level decoders take it as plain text. */
  bytesOf(piece: string, added: boolean): Uint8Array
  readonly leading: LeadingStrip | undefined
}

/** At most `countMax` times `content` vanishes at the beginning of the text, or of its first token. */
export interface LeadingStrip {
  content: Uint8Array
  countMax: number
  firstTokenOnly: boolean
}

/** A decoder under construction: pieces go through the text steps, then become bytes. */
interface Draft {
  steps: ((piece: string) => string)[]
  bytes: (piece: string, added: boolean) => Uint8Array
  leading: LeadingStrip | undefined
  fused: boolean
}

const utf8 = new TextEncoder()
const space = utf8.encode(' ')

const rules: Readonly<Record<string, (draft: Draft, fields: JsonFields) => void>> = {
  ByteLevel: (draft) => {
    draft.bytes = (piece, added) => (added ? undefined : fromByteCharacters(piece)) ?? utf8.encode(piece)
  },
  ByteFallback: (draft) => {
    draft.bytes = fallbackBytes
  },
  Fuse: (draft) => {
    draft.fused = true
  },
  Replace: replace,
  Strip: strip,
  Metaspace: metaspace,
  Sequence: (draft, fields) => {
    for (const step of fields.fieldsList('decoders')) extend(draft, step)
  },
}

/** The decoder of a tokenizer.json; null there joins pieces by spaces. */
export function decoderFromJson(json: unknown): Decoder {
  const draft: Draft = { steps: [], bytes: (piece) => utf8.encode(piece), leading: undefined, fused: false }
  if (json === null || json === undefined) {
    draft.steps.push((piece) => ` ${piece}`)
    draft.leading = { content: space, countMax: 1, firstTokenOnly: true }
  } else extend(draft, new JsonFields(json, 'decoder'))
  const { steps, bytes, leading } = draft
  return {
    leading,
    bytesOf: (piece, added) =>
      bytes(
        steps.reduce((text, step) => step(text), piece),
        added,
      ),
  }
}

function extend(draft: Draft, fields: JsonFields): void {
  const name = fields.string('type')
  const rule = rules[name]
  if (rule === undefined) throw unknownComponent('decoder', name, fields.where)
  rule(draft, fields)
}

function fallbackBytes(piece: string): Uint8Array {
  const byte = fallbackByte(piece)
  return byte === undefined ? utf8.encode(piece) : Uint8Array.of(byte)
}

function replace(draft: Draft, fields: JsonFields): void {
  const pattern = patternFromJson(fields.fields('pattern'))
  const content = fields.string('content')
  // Pieces are decoded one by one, so nothing may be found across two of them.
  if (draft.fused && (typeof pattern !== 'string' || Array.from(pattern).length > 1))
    throw unknownComponent('decoder', 'Replace of several characters behind Fuse', fields.where)
  draft.steps.push((piece) => piece.replaceAll(pattern, () => content))
}

function strip(draft: Draft, fields: JsonFields): void {
  const content = fields.string('content')
  const start = fields.count('start', 0)
  const stop = fields.count('stop', 0)
  if (!draft.fused) {
    draft.steps.push((piece) => stripped(piece, content, start, stop))
    return
  }
  if (stop > 0) throw unknownComponent('decoder', 'Strip at the end of a text', fields.where)
  if (start > 0) draft.leading = { content: utf8.encode(content), countMax: start, firstTokenOnly: false }
}

function stripped(piece: string, content: string, startMax: number, stopMax: number): string {
  let start = 0
  for (let count = 0; count < startMax && piece.startsWith(content, start); count++) start += content.length
  let end = piece.length
  for (let count = 0; count < stopMax && end - content.length >= start; count++) {
    if (!piece.endsWith(content, end)) break
    end -= content.length
  }
  return piece.slice(start, end)
}

function metaspace(draft: Draft, fields: JsonFields): void {
  const mark = fields.string('replacement', '▁')
  const legacyScheme = fields.boolean('add_prefix_space', true) ? 'always' : 'never'
  draft.steps.push((piece) => piece.replaceAll(mark, ' '))
  if (fields.string('prepend_scheme', legacyScheme) !== 'never')
    draft.leading = { content: space, countMax: Number.POSITIVE_INFINITY, firstTokenOnly: true }
}

/** Applies a {@link LeadingStrip} to the pieces of one text as they come. */
export class LeadingTrim {
  readonly #strip: LeadingStrip | undefined
  #left: number

  constructor(strip: LeadingStrip | undefined) {
    if (strip?.content.length === 0) throw new UserError('The decoder strips an empty text')
    this.#strip = strip
    this.#left = strip?.countMax ?? 0
  }

  push(bytes: Uint8Array): Uint8Array {
    if (this.#left === 0 || this.#strip === undefined) return bytes
    const { content, firstTokenOnly } = this.#strip
    let start = 0
    while (this.#left > 0 && content.every((byte, index) => bytes[start + index] === byte)) {
      start += content.length
      this.#left--
    }
    if (firstTokenOnly || start < bytes.length) this.#left = 0
    return bytes.subarray(start)
  }
}
