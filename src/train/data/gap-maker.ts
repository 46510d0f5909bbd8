/**
 * Documents that teach to fill in (Bavarian et al. 2022, arXiv:2207.14255): of a document, cut into fragments that fit a
 * row, a share becomes a prefix, a suffix and a middle behind them, parted at any two characters.
 *
 * Where a fragment is parted is a function of the seed, of its document's number and of its own in that.
 */
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { deriveSeed, uniformAt } from '../../base/random.ts'
import { LeadingTrim } from '../../tokenizer/decoder.ts'
import { type FillIn, fillInPrompt } from '../../tokenizer/fill-in.ts'
import { beginningOf, encodeInside, plainText } from '../../tokenizer/gap.ts'
import type { EncodeOptions, Tokenizer } from '../../tokenizer/tokenizer.ts'

/** The field `fim`, as Megatron's fim_rate and fim_spm_rate. */
export const fimFields = z.strictObject({
  /** Share of the fragments that get a gap. */
  rate: z.number().min(0).max(1).default(0.5),
  /** Share of those whose suffix comes first and whose middle goes on behind the prefix. */
  spm_rate: z.number().min(0).max(1).default(0.5),
})

export type Fim = z.output<typeof fimFields>

/** Room for tokens that the cuts part: texts on both sides of a cut may take a few more than the whole did. */
const spareTokens = 12
/** A context that takes less text than this beside the marks is no use. */
const fragmentTokensMin = 8
/** So far back a fragment's end is moved for a character that would be cut. */
const characterTokensMax = 8

export interface GapMakerOptions {
  /** Tokens of a row. */
  context: number
  seed: number
  /** Whether texts without a gap begin with the tokenizer's BOS, as those with one do. */
  beginsTexts: boolean
}

export class GapMaker {
  /** How text is read: no token of filling in is found in it. */
  readonly reading: EncodeOptions
  /** What the same documents become other fragments by. */
  readonly key: readonly unknown[]
  readonly #tokenizer: Tokenizer
  readonly #fim: Fim
  readonly #fillIn: FillIn
  readonly #end: number
  readonly #begin: readonly number[]
  readonly #options: GapMakerOptions
  readonly fragmentTokensMax: number

  /** Throws a UserError where the tokenizer has no tokens for it, or the context no room. */
  constructor(tokenizer: Tokenizer, fim: Fim, options: GapMakerOptions) {
    const { fillIn } = tokenizer
    if (fillIn === undefined)
      throw refused(
        'needs tokens that mark a gap, which the tokenizer lacks',
        'Start from a model that has them (Qwen2.5-Coder, StarCoder, Code Llama), or learn a new tokenizer with the job.',
      )
    const end = fillIn.end ?? tokenizer.eosTokens[0]
    if (end === undefined)
      throw refused('needs a token that ends a text, which the tokenizer lacks', 'Name one as eos_token.')
    this.#tokenizer = tokenizer
    this.#fim = fim
    this.#fillIn = fillIn
    this.#end = end
    this.#begin = beginningOf(tokenizer)
    this.#options = options
    this.reading = plainText(fillIn)
    this.key = ['fim', 1, fim.rate, fim.spm_rate, options.seed, options.context]
    const marks = this.#begin.length + 4
    this.fragmentTokensMax = options.context - marks - Math.min(spareTokens, options.context >> 3)
    if (this.fragmentTokensMax < fragmentTokensMin)
      throw refused(
        `needs room for its ${marks} marks, and the context of ${options.context} tokens leaves too little text`,
        `Raise context to ${fragmentTokensMin + marks + spareTokens} or more.`,
      )
  }

  /** The fragments of a document, which has this number among its neighbours. */
  document(number: number): GapDocument {
    return new GapDocument(this, deriveSeed(this.#options.seed, `document ${number}`))
  }

  /** Where to end a fragment that begins with these tokens; their number where all of them fit. */
  cutOf(tokens: readonly number[]): number {
    const most = this.fragmentTokensMax
    if (tokens.length <= most) return tokens.length
    for (let cut = most; cut > most - characterTokensMax; cut--) {
      const [first] = this.#tokenizer.bytesOf(tokens[cut]!)
      if (first === undefined || (first & 0xc0) !== 0x80) return cut
    }
    return most
  }

  /** Fragment `number` of a document as it is learned. */
  learned(tokens: Int32Array, document: number, number: number, isLast: boolean): Int32Array {
    const isFirst = number === 0
    const draws = deriveSeed(document, `fragment ${number}`)
    const gapped = uniformAt(draws, 0) < this.#fim.rate ? this.#withGap(tokens, isFirst, draws) : undefined
    if (gapped !== undefined && gapped.length <= this.#options.context) return gapped
    const begin = isFirst && this.#options.beginsTexts ? this.#begin : []
    const end = isLast ? this.#tokenizer.eosTokens.slice(0, 1) : []
    return Int32Array.from([...begin, ...tokens, ...end])
  }

  /** Undefined for what is no text. */
  #withGap(tokens: Int32Array, isFirst: boolean, draws: number): Int32Array | undefined {
    const text = this.#textOf(tokens, isFirst)
    if (text === undefined) return undefined
    const [from, to] = [1, 2]
      .map((draw) => wholePlace(text, Math.floor(uniformAt(draws, draw) * (text.length + 1))))
      .sort((a, b) => a - b) as [number, number]
    const tokenizer = this.#tokenizer
    const inside = (part: string) => encodeInside(tokenizer, part, this.reading)
    const prefix = tokenizer.encodeTyped(text.slice(0, from), this.reading)
    const middle = inside(text.slice(from, to))
    const suffix = inside(text.slice(to))
    const fillIn = this.#fillIn
    const marked =
      fillIn.middle !== undefined && uniformAt(draws, 3) < this.#fim.spm_rate
        ? [fillIn.prefix, fillIn.suffix, ...suffix, fillIn.middle, ...prefix]
        : fillInPrompt(fillIn, Array.from(prefix), Array.from(suffix))
    return Int32Array.from([...this.#begin, ...marked, ...middle, this.#end])
  }

  #textOf(tokens: Int32Array, isFirst: boolean): string | undefined {
    const trim = new LeadingTrim(isFirst ? this.#tokenizer.leading : undefined)
    const bytes = Buffer.concat(Array.from(tokens, (token) => trim.push(this.#tokenizer.bytesOf(token))))
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    } catch (error) {
      // A character of more tokens than a cut was moved by: the fragment stays as it is.
      if (error instanceof TypeError) return undefined
      throw error
    }
  }
}

/** One document as its tokens come. */
class GapDocument {
  readonly #maker: GapMaker
  #held: number[] = []
  readonly #seed: number
  #fragments = 0

  constructor(maker: GapMaker, seed: number) {
    this.#maker = maker
    this.#seed = seed
  }

  /** The fragments that are complete with these tokens, each a document of its own. */
  *push(tokens: Int32Array): Generator<Int32Array> {
    for (const token of tokens) this.#held.push(token)
    let start = 0
    for (;;) {
      const rest = this.#held.slice(start, start + this.#maker.fragmentTokensMax + 1)
      const cut = this.#maker.cutOf(rest)
      if (cut === rest.length) break
      yield this.#maker.learned(Int32Array.from(rest.slice(0, cut)), this.#seed, this.#fragments++, false)
      start += cut
    }
    this.#held = this.#held.slice(start)
  }

  *end(): Generator<Int32Array> {
    yield this.#maker.learned(Int32Array.from(this.#held), this.#seed, this.#fragments++, true)
    this.#held = []
  }
}

/** The place itself, or the one before it where it parts a character. */
function wholePlace(text: string, place: number): number {
  return (text.charCodeAt(place) & 0xfc00) === 0xdc00 ? place - 1 : place
}

function refused(what: string, fix: string): UserError {
  return new UserError(`The field data.fim ${what}.`, { failure: 'usage', fix })
}
