import type { EngineInfo } from '../serve/messages.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { contextTooLong } from './refusals.ts'

export interface PromptText {
  /** What the endpoint calls the prompt. */
  field: string
  /** The text of a chat template, which writes its special tokens itself. */
  templated: boolean
  /** Places where no special token begins, whatever the text spells there. */
  plainAt?: ReadonlySet<number>
}

/** Encodes prompts, refusing texts that cannot fit before the time of encoding them is spent. */
export class PromptEncoder {
  readonly #tokenizer: Tokenizer
  readonly #longestPiece: number

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
    // Pieces are at least as long as the text they stand for, and unlike bytes they need no decoding.
    let longest = 1
    for (let token = 0; token < tokenizer.vocabularySize; token++) {
      longest = Math.max(longest, tokenizer.textOf(token)?.length ?? 0)
    }
    this.#longestPiece = longest
  }

  encode(text: string, info: EngineInfo, about: PromptText): number[] {
    // A text that needs more tokens than the context even if all were the longest ones would block the
    // event loop for nothing.
    if (text.length > info.contextMax * this.#longestPiece) {
      throw contextTooLong(about.field, `The prompt of ${text.length} characters exceeds the model context.`)
    }
    const { templated, plainAt } = about
    return this.#tokenizer.encode(text, {
      addSpecial: !templated,
      ...(plainAt !== undefined && { plainAt }),
    })
  }
}

/**
 * The most tokens that can follow a prompt. Throws when the prompt leaves no room at all; whether an explicit
 * wish fits is for {@link checkRoom}.
 */
export function roomBehind(promptTokens: number, info: EngineInfo, field: string): number {
  // The last token is never fed back, so it needs no place in the cache.
  const room = Math.min(info.contextMax, info.cacheTokens + 1) - promptTokens
  if (room >= 1) return room
  throw contextTooLong(
    field,
    `The prompt has ${promptTokens} tokens; with at least one more they exceed the model context of ${info.contextMax}.`,
  )
}

export function checkRoom(promptTokens: number, maxTokens: number, info: EngineInfo, field: string): void {
  if (promptTokens + maxTokens <= info.contextMax) return
  throw contextTooLong(
    field,
    `The prompt has ${promptTokens} tokens and ${maxTokens} more are asked for: together they exceed ` +
      `the model context of ${info.contextMax}.`,
  )
}
