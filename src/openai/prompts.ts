import type { Prompt } from '../api/prompts.ts'
import { UserError } from '../base/errors.ts'
import { Problem } from '../http/problem.ts'
import type { EngineClient, EngineInfo } from '../serve/messages.ts'
import type { EncodeOptions, Tokenizer } from '../tokenizer/tokenizer.ts'
import { contextTooLong, refusalProblem, unavailable } from './refusals.ts'

export interface PromptText {
  /** What the endpoint calls the prompt. */
  field: string
  /** How its text is read. */
  options: EncodeOptions
  /** Nothing is generated behind it. */
  isEmbedded?: boolean
}

/** Encodes on another thread. */
export type RemoteEncode = (text: string, options: EncodeOptions) => Promise<ArrayLike<number>>

/** Longer texts leave this thread, where there is another: so many characters take a millisecond or two. */
const inlineCharactersMax = 4096

/** Of shorter texts it is told how many tokens they have, and not only that they are too many. */
const countedCharactersMax = 65_536

/**
 * Encodes prompts. A text that cannot fit is refused before the time of encoding it is spent; a long one is
 * encoded elsewhere, so that streams go on meanwhile.
 */
export class PromptEncoder {
  readonly #tokenizer: Tokenizer
  readonly #fewest: FewestTokens
  readonly #remote: RemoteEncode | undefined
  readonly #remoteMax: number
  #remoteCount = 0

  /** Without `remote` everything is encoded here; `remoteMax` texts may be on their way. */
  constructor(tokenizer: Tokenizer, remote: RemoteEncode | undefined, remoteMax: number) {
    this.#tokenizer = tokenizer
    this.#remote = remote
    this.#remoteMax = remoteMax
    this.#fewest = new FewestTokens(tokenizer)
  }

  /** Throws the {@link Problem} where it needs more tokens than the context even if all were the longest ones. */
  checkLength(text: string, { contextMax }: EngineInfo, field: string, isEmbedded = false): void {
    if (text.length <= contextMax * this.#fewest.longestPiece) {
      // One more, for a sum of fractions is not exact.
      if (text.length <= countedCharactersMax || this.#fewest.of(text) <= contextMax + 1) return
    }
    const name = isEmbedded ? 'input' : 'prompt'
    throw contextTooLong(field, `The ${name} of ${text.length} characters exceeds the model context.`)
  }

  async encode(text: string, info: EngineInfo, about: PromptText): Promise<readonly number[]> {
    const { options, field, isEmbedded = false } = about
    this.checkLength(text, info, field, isEmbedded)
    const isLong = this.#remote !== undefined && text.length > inlineCharactersMax
    const encode = async () =>
      isLong ? await this.#encodeRemotely(text, options) : this.#tokenizer.encode(text, options)
    const tokens = await encode().catch((error: unknown) => {
      throw unencodable(error, field)
    })
    // Copying them would cost more than the refusal that they are going to get.
    if (tokens.length > info.contextMax) throw noRoom(tokens.length, info, field, isEmbedded)
    return Array.isArray(tokens) ? tokens : Array.from(tokens)
  }

  async #encodeRemotely(text: string, options: EncodeOptions): Promise<ArrayLike<number>> {
    if (this.#remoteCount >= this.#remoteMax) throw refusalProblem({ ok: false, code: 'queue_full' }, '')
    this.#remoteCount++
    try {
      return await this.#remote!(text, options)
    } finally {
      this.#remoteCount--
    }
  }
}

/**
 * How many tokens a text has at least. Pieces are at least as long as the text they stand for, and unlike bytes they need
 * no decoding: so each character of a text is a part of a token, and not less of it than in the longest piece it occurs in.
 */
export class FewestTokens {
  readonly longestPiece: number
  /** By the code of a character of ASCII; what is not told apart has the least. */
  readonly #shares: Float64Array

  constructor(tokenizer: Pick<Tokenizer, 'vocabularySize' | 'textOf'>) {
    let longest = 1
    const longestWith = new Float64Array(128)
    const note = (code: number, length: number) => {
      if (length > longestWith[code]!) longestWith[code] = length
    }
    for (let token = 0; token < tokenizer.vocabularySize; token++) {
      const piece = tokenizer.textOf(token) ?? ''
      longest = Math.max(longest, piece.length)
      for (let at = 0; at < piece.length; at++) {
        const code = piece.charCodeAt(at)
        if (!isVisible(code)) continue
        note(code, piece.length)
        // A tokenizer may write letters in one case.
        if (isLetter(code)) note(code ^ 0x20, piece.length)
      }
    }
    this.longestPiece = longest
    this.#shares = longestWith.map((length) => 1 / (length || longest))
  }

  of(text: string): number {
    const least = 1 / this.longestPiece
    let tokens = 0
    for (let at = 0; at < text.length; at++) tokens += this.#shares[text.charCodeAt(at)] ?? least
    return tokens
  }
}

/** Characters that byte-level pieces write as they are, and others too. */
function isVisible(code: number): boolean {
  return code > 0x20 && code < 0x7f
}

function isLetter(code: number): boolean {
  const lower = code | 0x20
  return lower >= 0x61 && lower <= 0x7a
}

export interface EncodedPrompt {
  text: string
  tokens: readonly number[]
}

/** Texts and token ids as both; `field` is what the endpoint calls them, `isEmbedded` as in {@link PromptText}. */
export async function encodePrompts(
  prompts: readonly Prompt[],
  { encoder, engine, tokenizer }: { encoder: PromptEncoder; engine: EngineClient; tokenizer: Tokenizer },
  { field, isEmbedded = false }: Omit<PromptText, 'options'>,
): Promise<readonly EncodedPrompt[]> {
  const encoded: EncodedPrompt[] = []
  for (const [index, prompt] of prompts.entries()) {
    const place = prompts.length === 1 ? field : `${field}.${index}`
    // Ids that something is to follow are measured by roomBehind.
    if (isEmbedded && prompt.length > engine.info.contextMax && typeof prompt !== 'string')
      throw noRoom(prompt.length, engine.info, place, isEmbedded)
    if (typeof prompt === 'string') {
      const about = { field: place, isEmbedded, options: {} }
      encoded.push({ text: prompt, tokens: await encoder.encode(prompt, engine.info, about) })
    } else encoded.push({ text: tokenizer.decode(prompt, { skipSpecial: true }), tokens: prompt })
    // Many prompts are as long as one long one: the others get their turn in between.
    if (index + 1 < prompts.length) await new Promise<void>((resolve) => setImmediate(resolve))
  }
  return encoded
}

/**
 * The most tokens that can follow a prompt. Throws when the prompt leaves no room at all; whether an explicit
 * wish fits is for {@link checkRoom}.
 */
export function roomBehind(promptTokens: number, info: EngineInfo, field: string): number {
  // The last token is never fed back, so it needs no place in the cache.
  const room = Math.min(info.contextMax, info.cacheTokens + 1) - promptTokens
  if (room >= 1) return room
  throw noRoom(promptTokens, info, field)
}

function noRoom(
  promptTokens: number,
  { contextMax }: EngineInfo,
  field: string,
  isEmbedded = false,
): Problem {
  const facts = isEmbedded
    ? `The input has ${promptTokens} tokens, more than the model context of ${contextMax}.`
    : `The prompt has ${promptTokens} tokens; with at least one more they exceed the model context of ${contextMax}.`
  return contextTooLong(field, facts)
}

export function checkRoom(promptTokens: number, maxTokens: number, info: EngineInfo, field: string): void {
  if (promptTokens + maxTokens <= info.contextMax) return
  throw contextTooLong(
    field,
    `The prompt has ${promptTokens} tokens and ${maxTokens} more are asked for: together they exceed ` +
      `the model context of ${info.contextMax}.`,
  )
}

/** What the client is told: the tokenizer refuses some texts, and the thread that encodes may have died. */
function unencodable(error: unknown, field: string): unknown {
  if (!(error instanceof UserError)) return error
  if (error.failure === 'unreachable') return unavailable()
  return new Problem(400, 'invalid_value', error.message, { param: field })
}
