import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf, UserError } from '../base/errors.ts'
import { type AddedToken, AddedTokenSplitter, addedTokensFromJson } from './added-tokens.ts'
import { bpeFromJson } from './bpe.ts'
import { decoderFromJson, type LeadingStrip, LeadingTrim } from './decoder.ts'
import { type FillIn, fillInFrom } from './fill-in.ts'
import { partsFromGguf } from './gguf.ts'
import { JsonFields, unknownComponent } from './json-fields.ts'
import type { TokenModel } from './model.ts'
import { normalizerFromJson } from './normalizer.ts'
import type { TokenizerParts } from './parts.ts'
import { postProcessorFromJson } from './post-processor.ts'
import { preTokenizerFromJson } from './pre-tokenizer.ts'
import { TokenList } from './token-list.ts'
import { unigramFromJson } from './unigram.ts'

export interface EncodeOptions {
  addSpecial?: boolean
  parseSpecial?: boolean
  plainAt?: ReadonlySet<number>
  unread?: ReadonlySet<number>
}

/** Text to token ids and back. Ids and texts equal those of the Rust `tokenizers` library. */
export interface Tokenizer {
  /** Ids run below this. The model's own vocabulary may be padded to more. */
  readonly vocabularySize: number
  readonly bosToken: number | undefined
  readonly eosTokens: readonly number[]
  readonly padToken: number | undefined
  /** How it marks a gap and both its sides; undefined where it has no tokens for that. */
  readonly fillIn: FillIn | undefined
  /** What decoding takes off the beginning of a text (SentencePiece's leading space), if anything. */
  readonly leading?: LeadingStrip | undefined
  /**
   * `addSpecial` (default true) puts BOS and the like as the tokenizer's post-processor says. Special tokens
   * written in the text are recognised unless `parseSpecial` is false, or where they begin at one of the
   * places in `plainAt`. Tokens in `unread`, special or not, are never recognised in text. Lone surrogates become U+FFFD.
   */
  encode(text: string, options?: EncodeOptions): number[]
  /** The same in an array of 32-bit numbers: a million tokens take 4 MB. */
  encodeTyped(text: string, options?: EncodeOptions): Int32Array
  /** Bytes that are not UTF-8 become U+FFFD; ids that the vocabulary lacks give nothing. */
  decode(tokens: readonly number[], options?: { skipSpecial?: boolean }): string
  /** Bytes that the token stands for inside a text; none for an id that the vocabulary lacks. */
  bytesOf(token: number): Uint8Array
  isSpecial(token: number): boolean
  /** Id of exactly this piece or added token. */
  idOf(text: string): number | undefined
  /** The piece as the vocabulary writes it (byte characters, ▁ and <0xHH> included). */
  textOf(token: number): string | undefined
}

class Pipeline implements Tokenizer {
  readonly vocabularySize: number
  readonly bosToken: number | undefined
  readonly eosTokens: readonly number[]
  readonly padToken: number | undefined
  readonly fillIn: FillIn | undefined
  readonly leading: LeadingStrip | undefined
  readonly #parts: TokenizerParts
  readonly #splitter: AddedTokenSplitter
  readonly #addedById: ReadonlyMap<number, AddedToken>
  readonly #addedByText: ReadonlyMap<string, AddedToken>
  /** Filled as tokens are decoded. */
  readonly #bytes: (Uint8Array | undefined)[] = []
  /** Where a text's ids are gathered. */
  readonly #ids = new TokenList()

  constructor(parts: TokenizerParts) {
    this.#parts = parts
    this.#splitter = new AddedTokenSplitter(parts.addedTokens, parts.normalizer)
    this.#addedById = new Map(parts.addedTokens.map((token) => [token.id, token]))
    this.#addedByText = new Map(parts.addedTokens.map((token) => [token.content, token]))
    this.vocabularySize = parts.addedTokens.reduce(
      (size, token) => Math.max(size, token.id + 1),
      parts.model.vocabularySize,
    )
    this.bosToken = parts.bosToken
    this.eosTokens = parts.eosTokens
    this.padToken = parts.padToken
    this.fillIn = parts.fillIn
    this.leading = parts.decoder.leading
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    return Array.from(this.encodeTyped(text, options))
  }

  encodeTyped(text: string, options: EncodeOptions = {}): Int32Array {
    const { addSpecial = true, parseSpecial = true, plainAt, unread } = options
    const { postProcessor } = this.#parts
    const ids = this.#ids
    ids.length = 0
    if (addSpecial) for (const token of postProcessor.before) ids.push(token)
    for (const segment of this.#splitter.split(wellFormed(text), { parseSpecial, plainAt, unread })) {
      if ('token' in segment) ids.push(segment.token)
      else this.#encodeText(segment.text, segment.start === 0, ids)
    }
    if (addSpecial) for (const token of postProcessor.behind) ids.push(token)
    return ids.ids.slice()
  }

  #encodeText(text: string, first: boolean, ids: TokenList): void {
    const { preTokenizer, model } = this.#parts
    const { scanner } = preTokenizer
    if (scanner === undefined || model.encodeRange === undefined)
      for (const word of preTokenizer.split(text, first)) model.encode(word, ids)
    else
      for (let start = 0, end = 0; start < text.length; start = end) {
        end = scanner(text, start)
        model.encodeRange(text, start, end, ids)
      }
  }

  decode(tokens: readonly number[], options: { skipSpecial?: boolean } = {}): string {
    const { skipSpecial = false } = options
    const trim = new LeadingTrim(this.leading)
    const chunks: Uint8Array[] = []
    for (const token of tokens) {
      if (skipSpecial && this.isSpecial(token)) continue
      chunks.push(trim.push(this.bytesOf(token)))
    }
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(chunks))
  }

  bytesOf(token: number): Uint8Array {
    return (this.#bytes[token] ??= this.#decoded(token))
  }

  isSpecial(token: number): boolean {
    return this.#addedById.get(token)?.special ?? false
  }

  idOf(text: string): number | undefined {
    return this.#addedByText.get(text)?.id ?? this.#parts.model.idOf(text)
  }

  textOf(token: number): string | undefined {
    return this.#addedById.get(token)?.content ?? this.#parts.model.pieceOf(token)
  }

  #decoded(token: number): Uint8Array {
    const piece = this.textOf(token)
    if (piece === undefined) return new Uint8Array(0)
    return this.#parts.decoder.bytesOf(piece, this.#addedById.has(token))
  }
}

/** UTF-8 has no lone surrogates: they become U+FFFD here, once, so that every later step sees characters. */
function wellFormed(text: string): string {
  return /[\ud800-\udfff]/.test(text) ? text.replace(/\p{Surrogate}/gu, '\ufffd') : text
}

/**
 * A tokenizer from the parsed tokenizer.json and, for the special tokens' roles, tokenizer_config.json; `endings`
 * are ending tokens beside its eos_token. A component that Ropeway lacks is a UserError that names it.
 */
export function tokenizerFromJson(
  json: unknown,
  config?: unknown,
  endings: readonly number[] = [],
): Tokenizer {
  return fromJson(json, config, endings)
}

function fromJson(json: unknown, config: unknown, moreEosTokens: readonly number[]): Tokenizer {
  const fields = new JsonFields(json, 'tokenizer.json')
  const roles = new JsonFields(config ?? {}, 'tokenizer_config.json')
  const preTokenizer = preTokenizerFromJson(fields.raw('pre_tokenizer'))
  const model = modelFromJson(fields.fields('model'), preTokenizer.byteLevel)
  const addedTokens = addedTokensFromJson(fields)
  const added = (text: string) => addedTokens.find((token) => token.content === text)?.id
  const idOf = (role: string) => {
    const text = roleText(roles, role)
    return text === undefined ? undefined : (added(text) ?? model.idOf(text))
  }
  const eosToken = idOf('eos_token')
  const endings = [eosToken, ...moreEosTokens, ...callEndings(added)].filter((id) => id !== undefined)
  return new Pipeline({
    addedTokens,
    normalizer: normalizerFromJson(fields.raw('normalizer')),
    preTokenizer,
    model,
    postProcessor: postProcessorFromJson(fields.raw('post_processor')),
    decoder: decoderFromJson(fields.raw('decoder')),
    bosToken: idOf('bos_token'),
    eosTokens: [...new Set(endings)],
    padToken: idOf('pad_token'),
    fillIn: fillInFrom(added),
  })
}

/** In the harmony format (gpt-oss) a call ends an answer, which a fine-tuned model's files often do not say. */
function callEndings(added: (text: string) => number | undefined): readonly (number | undefined)[] {
  return added('<|channel|>') === undefined ? [] : ['<|return|>', '<|call|>'].map(added)
}

function modelFromJson(fields: JsonFields, byteLevel: boolean): TokenModel {
  // Files from before 2020 leave the type out; they are BPE when they have merges.
  const name = fields.string('type', fields.raw('merges') === undefined ? undefined : 'BPE')
  if (name === 'BPE') return bpeFromJson(fields, byteLevel)
  if (name === 'Unigram' && !byteLevel) return unigramFromJson(fields)
  throw unknownComponent('model', byteLevel ? `${name} over bytes` : name, fields.where)
}

/** Roles are written as the token's text or as {"content": text, ...}. */
function roleText(roles: JsonFields, role: string): string | undefined {
  const value = roles.raw(role)
  if (value === undefined || typeof value === 'string') return value
  return roles.fields(role).string('content')
}

/**
 * The tokenizer of a Hugging Face model folder: tokenizer.json, with tokenizer_config.json and the ending
 * tokens of generation_config.json (or else config.json) where they exist.
 */
export function loadTokenizer(folder: string): Tokenizer {
  const json = readJson(join(folder, 'tokenizer.json'))
  if (json === undefined) {
    throw new UserError(`${folder} has no tokenizer.json`, {
      failure: 'not_found',
      fix: existsSync(join(folder, 'tokenizer.model'))
        ? "Convert its tokenizer.model: open it with transformers' AutoTokenizer and save it again."
        : 'Point to a model folder in Hugging Face layout, or to a .gguf file.',
    })
  }
  const endings = endingTokens(readJson(join(folder, 'generation_config.json')))
  return fromJson(
    json,
    readJson(join(folder, 'tokenizer_config.json')),
    endings.length > 0 ? endings : endingTokens(readJson(join(folder, 'config.json'))),
  )
}

function endingTokens(config: unknown): readonly number[] {
  const fields = new JsonFields(config ?? {}, 'eos_token_id of the model folder')
  const value = fields.raw('eos_token_id')
  if (value === undefined) return []
  return Array.isArray(value) ? fields.counts('eos_token_id') : [fields.count('eos_token_id')]
}

/** The parsed file, or undefined where it does not exist. */
function readJson(path: string): unknown {
  if (!existsSync(path)) return undefined
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, {
      fix: 'Fetch the file again; it is cut off or not JSON.',
      cause: error,
    })
  }
}

/** The tokenizer in the metadata of a GGUF file: `llama` (SentencePiece BPE) and `gpt2` (byte-level BPE). */
export function tokenizerFromGguf(metadata: ReadonlyMap<string, unknown>): Tokenizer {
  return new Pipeline(partsFromGguf(metadata))
}
