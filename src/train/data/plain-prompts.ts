/** Prompts and completions without a chat template: one behind the other, and the ending token. */
import { UserError } from '../../base/errors.ts'
import type { Pause } from '../../base/pauses.ts'
import { beginningOf } from '../../tokenizer/gap.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import type { ConversationEncoder, RenderOptions } from './chat-renderer.ts'
import type { Conversation } from './conversation.ts'
import { encodePieces } from './encode-pieces.ts'
import type { GapMaker } from './gap-maker.ts'
import { PieceEncoder } from './piece-encoder.ts'
import { placeOf, type Sample, type SourceLine } from './sample.ts'

export class PlainPrompts implements ConversationEncoder {
  readonly notes: ReadonlySet<string> = new Set()
  readonly #tokenizer: Tokenizer
  readonly #options: RenderOptions

  constructor(tokenizer: Tokenizer, options: RenderOptions) {
    this.#tokenizer = tokenizer
    this.#options = options
  }

  samples({ messages, tools }: Conversation, source: SourceLine): Sample[] {
    const [prompt, answer] = messages
    const isPlain = messages.length === 2 && prompt!.role === 'user' && answer!.role === 'assistant'
    if (!isPlain || tools !== undefined || answer!.tool_calls !== undefined) {
      throw new UserError(
        `${placeOf(source)}: a conversation needs a chat template, and there is none for this model.`,
        { fix: 'Give one in the field data.template: chatml, plain, or the path of a Jinja file.' },
      )
    }
    const weight = answer!.weight ?? 1
    const { tokens, weights } = encodePieces(this.#tokenizer, [
      { text: prompt!.content ?? '', weight: 0, plain: true },
      { text: answer!.content ?? '', weight, plain: true },
    ])
    const begin = beginningOf(this.#tokenizer)
    const end = this.#tokenizer.eosTokens.slice(0, 1)
    return [
      {
        tokens: Int32Array.from([...begin, ...tokens, ...end]),
        weights: Float32Array.from([
          ...begin.map(() => 0),
          ...weights,
          ...end.map(() => (this.#options.trainEndOfTurn ? weight : 0)),
        ]),
        source,
      },
    ]
  }
}

/** A whole text, the ending token behind it, or its fragments. All of it counts. Encoded piece by piece, however long it is. */
export async function textSamples(
  tokenizer: Tokenizer,
  text: string,
  source: SourceLine,
  pause: Pause,
  gaps?: { maker: GapMaker; number: number },
): Promise<Sample[]> {
  const encoder = new PieceEncoder(tokenizer, undefined, gaps?.maker.reading)
  const document = gaps?.maker.document(gaps.number)
  const parts: Int32Array[] = document === undefined ? [Int32Array.from(beginningOf(tokenizer))] : []
  const take = (tokens: Int32Array) => {
    if (document === undefined) parts.push(tokens)
    else parts.push(...document.push(tokens))
  }
  for (const tokens of encoder.push(text)) {
    take(tokens)
    await pause()
  }
  for (const tokens of encoder.end()) take(tokens)
  const counting = (tokens: Int32Array) => ({
    tokens,
    weights: new Float32Array(tokens.length).fill(1),
    source,
  })
  if (document !== undefined) return [...parts, ...document.end()].map(counting)
  parts.push(Int32Array.from(tokenizer.eosTokens.slice(0, 1)))
  const tokens = new Int32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let place = 0
  for (const part of parts) {
    tokens.set(part, place)
    place += part.length
  }
  return [counting(tokens)]
}
