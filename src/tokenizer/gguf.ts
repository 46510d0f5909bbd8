import { UserError } from '../base/errors.ts'
import type { AddedToken } from './added-tokens.ts'
import { Bpe, mergesFromLines } from './bpe.ts'
import { fallbackByte } from './byte-characters.ts'
import { decoderFromJson } from './decoder.ts'
import { type FillIn, fillInFrom } from './fill-in.ts'
import { ggufPreTokenizer } from './gguf-pre-tokenizers.ts'
import { unknownComponent } from './json-fields.ts'
import { MergeTable } from './merge-table.ts'
import { normalizerFromJson } from './normalizer.ts'
import type { TokenizerParts } from './parts.ts'
import { preTokenizerFromJson } from './pre-tokenizer.ts'
import { Vocabulary } from './vocabulary.ts'

/** tokenizer.ggml.token_type (GGUF specification); the types that encode text are normal. */
const types = { normal: 1, unknown: 2, control: 3, userDefined: 4 } as const

/** Ending tokens by their texts: files name one of them, chat models end their turns with others. */
const endingTexts: ReadonlySet<string> = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end_of_text|>',
  '<|endoftext|>',
  '<|return|>',
  '<|call|>',
  '<end_of_turn>',
  '<EOT>',
])

/** What files called the parts of filling in before 2024-10. */
const oldFillInNames: Readonly<Record<string, string>> = { pre: 'prefix', suf: 'suffix', mid: 'middle' }

/** The parts of the tokenizer that a GGUF file's metadata describes. */
export function partsFromGguf(metadata: ReadonlyMap<string, unknown>): TokenizerParts {
  const kind = metadata.get('tokenizer.ggml.model') ?? '(none)'
  if (kind === 'llama') return sentencePieceParts(new GgufTokenizer(metadata))
  if (kind === 'gpt2') return byteLevelParts(new GgufTokenizer(metadata))
  throw unknownComponent('model', String(kind), 'tokenizer.ggml.model')
}

/** tokenizer.ggml.*, typed. */
class GgufTokenizer {
  readonly #metadata: ReadonlyMap<string, unknown>
  readonly pieces: readonly string[]
  readonly tokenTypes: readonly number[]

  constructor(metadata: ReadonlyMap<string, unknown>) {
    this.#metadata = metadata
    this.pieces = this.strings('tokens')
    const listed = this.numbers('token_type')
    this.tokenTypes = listed ?? this.pieces.map(() => types.normal)
    if (this.tokenTypes.length !== this.pieces.length)
      throw damaged('tokenizer.ggml.token_type has another length')
  }

  string(name: string): string | undefined {
    const value = this.#raw(name)
    if (value === undefined || typeof value === 'string') return value
    throw damaged(`tokenizer.ggml.${name} is not a text`)
  }

  boolean(name: string, absent: boolean): boolean {
    const value = this.#raw(name) ?? absent
    if (typeof value !== 'boolean') throw damaged(`tokenizer.ggml.${name} is not true or false`)
    return value
  }

  /** A token id of the vocabulary. */
  token(name: string): number | undefined {
    const value = this.#raw(name)
    if (value === undefined) return undefined
    const id = Number(value)
    if (!Number.isInteger(id)) throw damaged(`tokenizer.ggml.${name} is not a token id`)
    // Some files write -1 or 2^32-1 for "none".
    return id >= 0 && id < this.pieces.length ? id : undefined
  }

  strings(name: string): readonly string[] {
    const value = this.#raw(name)
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string'))
      throw damaged(`tokenizer.ggml.${name} is not a list of texts`)
    return value
  }

  numbers(name: string): readonly number[] | undefined {
    const value = this.#raw(name)
    if (value === undefined) return undefined
    if (!Array.isArray(value) && !ArrayBuffer.isView(value))
      throw damaged(`tokenizer.ggml.${name} is not a list`)
    const numbers = Array.from(value as ArrayLike<number | bigint>, Number)
    if (numbers.some(Number.isNaN)) throw damaged(`tokenizer.ggml.${name} is not a list of numbers`)
    return numbers
  }

  addedTokens(): AddedToken[] {
    const added: AddedToken[] = []
    for (const [id, content] of this.pieces.entries()) {
      const type = this.tokenTypes[id]
      const special = type === types.unknown || type === types.control
      if (!special && type !== types.userDefined) continue
      added.push({
        id,
        content,
        special,
        singleWord: false,
        stripLeft: false,
        stripRight: false,
        normalized: false,
      })
    }
    return added
  }

  roles(
    addBosAbsent: boolean,
  ): Pick<TokenizerParts, 'bosToken' | 'eosTokens' | 'padToken' | 'postProcessor' | 'fillIn'> {
    const bosToken = this.token('bos_token_id')
    const eosToken = this.token('eos_token_id')
    const named = [eosToken, this.token('eot_token_id'), this.token('eom_token_id')]
    const spelled = [...this.pieces.keys()].filter(
      (id) => this.tokenTypes[id] === types.control && endingTexts.has(this.pieces[id]!),
    )
    const addBos = this.boolean('add_bos_token', addBosAbsent) && bosToken !== undefined
    const addEos = this.boolean('add_eos_token', false) && eosToken !== undefined
    return {
      bosToken,
      eosTokens: [...new Set([...named, ...spelled].filter((id) => id !== undefined))],
      padToken: this.token('padding_token_id'),
      fillIn: this.#fillIn(),
      postProcessor: { before: addBos ? [bosToken] : [], behind: addEos ? [eosToken] : [] },
    }
  }

  /** As the file names them, else as they are spelt. */
  #fillIn(): FillIn | undefined {
    const named = (part: string) =>
      this.token(`fim_${part}_token_id`) ?? this.token(`${oldFillInNames[part] ?? part}_token_id`)
    const [prefix, suffix, middle] = [named('pre'), named('suf'), named('mid')]
    if (prefix !== undefined && suffix !== undefined && middle !== undefined) {
      const others = ['pad', 'rep', 'sep'].flatMap((part) => named(part) ?? [])
      return { prefix, suffix, middle, others }
    }
    const ids = new Map(this.addedTokens().map(({ content, id }) => [content, id]))
    return fillInFrom((spelling) => ids.get(spelling))
  }

  #raw(name: string): unknown {
    return this.#metadata.get(`tokenizer.ggml.${name}`) ?? undefined
  }
}

function sentencePieceParts(reader: GgufTokenizer): TokenizerParts {
  const vocabulary = Vocabulary.fromPieces(reader.pieces)
  const spacePrefix = reader.boolean('add_space_prefix', true)
  const marks = { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
  const normalizers = spacePrefix ? [{ type: 'Prepend', prepend: '▁' }, marks] : [marks]
  const decoders = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    { type: 'Strip', content: ' ', start: spacePrefix ? 1 : 0, stop: 0 },
  ]
  return {
    addedTokens: reader.addedTokens(),
    normalizer: normalizerFromJson({ type: 'Sequence', normalizers }),
    preTokenizer: preTokenizerFromJson(null),
    model: new Bpe({
      vocabulary,
      merges: mergesFromScores(reader, vocabulary),
      byteLevel: false,
      byteFallback: true,
      unknownToken: reader.token('unknown_token_id') ?? 0,
      fuseUnknown: true,
      ignoreMerges: false,
    }),
    decoder: decoderFromJson({ type: 'Sequence', decoders }),
    ...reader.roles(true),
  }
}

/**
 * SentencePiece merges any neighbours whose text is a piece, the best score first. That is every way to cut a
 * piece into two pieces, ranked by the piece's score; equal scores share a rank, for there the left one wins.
 */
function mergesFromScores(reader: GgufTokenizer, vocabulary: Vocabulary): MergeTable {
  const scores = reader.numbers('scores')
  if (scores === undefined || scores.length !== reader.pieces.length)
    throw damaged('tokenizer.ggml.scores is missing or has another length')
  const isText = (id: number) =>
    reader.tokenTypes[id] === types.normal && fallbackByte(reader.pieces[id]!) === undefined
  const products = [...reader.pieces.keys()].filter(isText)
  products.sort((a, b) => scores[b]! - scores[a]!)
  const found: number[] = []
  let rank = 0
  for (const [place, product] of products.entries()) {
    if (place > 0 && scores[product] !== scores[products[place - 1]!]) rank++
    const piece = reader.pieces[product]!
    for (let cut = 1; cut < piece.length; cut++) {
      const left = vocabulary.idOf(piece.slice(0, cut))
      const right = left === undefined ? undefined : vocabulary.idOf(piece.slice(cut))
      if (left !== undefined && right !== undefined && isText(left) && isText(right))
        found.push(left, right, rank, product)
    }
  }
  const table = new MergeTable(found.length / 4)
  for (let i = 0; i < found.length; i += 4) table.set(found[i]!, found[i + 1]!, found[i + 2]!, found[i + 3]!)
  return table
}

function byteLevelParts(reader: GgufTokenizer): TokenizerParts {
  const pre = ggufPreTokenizer(reader.string('pre'))
  const vocabulary = Vocabulary.fromPieces(reader.pieces)
  const splits = pre.patterns.map((pattern) => ({
    type: 'Split',
    pattern: { Regex: pattern },
    behavior: 'Isolated',
  }))
  const bytes = {
    type: 'ByteLevel',
    add_prefix_space: reader.boolean('add_space_prefix', false),
    use_regex: false,
  }
  return {
    addedTokens: reader.addedTokens(),
    normalizer: normalizerFromJson(pre.normalizer === undefined ? null : { type: pre.normalizer }),
    preTokenizer: preTokenizerFromJson({ type: 'Sequence', pretokenizers: [...splits, bytes] }),
    model: new Bpe({
      vocabulary,
      merges: mergesFromLines(reader.strings('merges'), vocabulary),
      byteLevel: true,
      byteFallback: false,
      unknownToken: reader.token('unknown_token_id'),
      fuseUnknown: false,
      ignoreMerges: pre.ignoreMerges ?? false,
    }),
    decoder: decoderFromJson({ type: 'ByteLevel' }),
    ...reader.roles(pre.addBos ?? false),
  }
}

function damaged(what: string): UserError {
  return new UserError(what, { fix: 'Convert or fetch the GGUF file again.' })
}
