import type { ChatLogprobs, ChatTopLogprob } from '../api/chat.ts'
import type { CompletionLogprobs } from '../api/completions.ts'
import type { TokenLogprob } from '../serve/request.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { ReleasedToken } from './transcript.ts'

/** JSON has no -Infinity; OpenAI writes this for a token that is out of the question. */
const leastLogprob = -9999

/** Log-probabilities in the two shapes that OpenAI has for them. */
export class TokenTexts {
  readonly #tokenizer: Tokenizer

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
  }

  forChat(tokens: readonly ReleasedToken[]): ChatLogprobs {
    return {
      content: tokens.map(({ logprob }) => ({
        ...this.#chatEntry(logprob),
        top_logprobs: logprob.top.map((entry) => this.#chatEntry(entry)),
      })),
      refusal: null,
    }
  }

  /** Appends a token; `logprob` is null for the first token of a prompt, which nothing precedes. */
  addToCompletion(
    out: CompletionLogprobs,
    token: number,
    logprob: TokenLogprob | null,
    offset: number,
  ): void {
    out.tokens.push(this.#name(token))
    out.token_logprobs.push(logprob === null ? null : finite(logprob.logprob))
    out.text_offset.push(offset)
    out.top_logprobs.push(logprob === null ? null : this.#top(logprob))
  }

  /** The chosen token is always in; of two tokens with one text the likelier stays. */
  #top(logprob: TokenLogprob): Record<string, number> {
    const top: Record<string, number> = Object.create(null)
    for (const entry of [...logprob.top, logprob]) top[this.#name(entry.token)] ??= finite(entry.logprob)
    return top
  }

  #chatEntry(entry: { token: number; logprob: number }): ChatTopLogprob {
    const bytes = this.#tokenizer.bytesOf(entry.token)
    return { token: this.#name(entry.token), logprob: finite(entry.logprob), bytes: [...bytes] }
  }

  /** A token's text, or its bytes spelt out when they are not whole characters. */
  #name(token: number): string {
    const bytes = this.#tokenizer.bytesOf(token)
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)
    if (!text.includes('\ufffd')) return text
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('')}`
  }
}

function finite(logprob: number): number {
  return Number.isFinite(logprob) ? Math.max(logprob, leastLogprob) : leastLogprob
}
