/** A tokenizer.json as the `tokenizer.ggml.*` metadata of a GGUF file. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../../base/errors.ts'
import { readJsonFile } from '../../base/files.ts'
import type { GgufEntry } from '../../formats/gguf-values.ts'
import { ggufPreTokenizerName } from '../../tokenizer/gguf-pre-tokenizers.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'

const types = { normal: 1, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

interface TokenizerJson {
  added_tokens?: { id: number; content: string; special: boolean }[]
  pre_tokenizer?: unknown
  model?: {
    type?: string
    vocab?: Record<string, number>
    merges?: (string | [string, string])[]
    byte_fallback?: boolean
    unk_token?: string | null
  }
}

/** Throws a UserError for a tokenizer that GGUF has no form for. `vocabularySize` is the model's. */
export function ggufTokenizer(
  folder: string,
  tokenizer: Tokenizer,
  vocabularySize: number,
  templates: Readonly<Record<string, string>> = {},
): Map<string, GgufEntry> {
  const path = join(folder, 'tokenizer.json')
  if (!existsSync(path)) throw new UserError(`${folder} has no tokenizer.json, which a GGUF file includes.`)
  const json = readJsonFile(path) as TokenizerJson
  const { vocab, merges = [] } = json.model ?? {}
  if (json.model?.type !== 'BPE' || vocab === undefined)
    throw unsupported(path, `its model is ${String(json.model?.type)}, not BPE`)
  const entries = new Map<string, GgufEntry>()
  const set = (name: string, entry: GgufEntry) => entries.set(`tokenizer.${name}`, entry)
  const pre = ggufPreTokenizerName(json.pre_tokenizer)
  if (pre === undefined && json.model.byte_fallback !== true)
    throw unsupported(path, 'it cuts text in a way that has no name there')
  const isSentencePiece = pre === undefined
  const pieces = piecesOf(json, vocab, vocabularySize, isSentencePiece)
  set('ggml.model', text(isSentencePiece ? 'llama' : 'gpt2'))
  set('ggml.pre', text(pre ?? 'default'))
  set('ggml.tokens', { type: 'array', items: 'string', value: pieces.map(({ piece }) => piece) })
  set('ggml.token_type', { type: 'array', items: 'int32', value: pieces.map(({ type }) => type) })
  const lines = merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' ')))
  if (!isSentencePiece) set('ggml.merges', { type: 'array', items: 'string', value: lines })
  else {
    set('ggml.scores', { type: 'array', items: 'float32', value: scores(pieces, lines) })
    // Llama's SentencePiece puts a space in front of a text, Gemma's does not.
    const [first = -1] = tokenizer.encode('a', { addSpecial: false })
    set('ggml.add_space_prefix', { type: 'bool', value: pieces[first]?.piece.startsWith('▁') ?? false })
  }
  const { bosToken, eosTokens, padToken } = tokenizer
  const unknown = vocab[json.model.unk_token ?? '']
  const roles = {
    ...{ bos_token_id: bosToken, eos_token_id: eosTokens[0], padding_token_id: padToken },
    unknown_token_id: unknown,
  }
  for (const [role, id] of Object.entries(roles))
    if (id !== undefined && id < vocabularySize) set(`ggml.${role}`, { type: 'uint32', value: id })
  if (eosTokens[1] !== undefined) set('ggml.eot_token_id', { type: 'uint32', value: eosTokens[1] })
  const added = [...tokenizer.encode('a')].length > [...tokenizer.encode('a', { addSpecial: false })].length
  set('ggml.add_bos_token', { type: 'bool', value: added && tokenizer.encode('a')[0] === bosToken })
  for (const [name, source] of Object.entries(templates))
    set(name === 'default' ? 'chat_template' : `chat_template.${name}`, text(source))
  return entries
}

function unsupported(path: string, why: string): UserError {
  return new UserError(`${path} has no form in a GGUF file: ${why}.`, {
    fix: 'Export as safetensors instead, or train with another tokenizer (byte_pairs).',
  })
}

const text = (value: string): GgufEntry => ({ type: 'string', value })

interface Piece {
  piece: string
  type: number
}

/**
 * One piece per row of the embedding; rows that no piece has are called unused. What has no row is left out, as Gemma 3's
 * place of a picture has none in models that do not see: llama.cpp opens no file with more pieces than rows.
 */
function piecesOf(
  json: TokenizerJson,
  vocab: Record<string, number>,
  vocabularySize: number,
  isSentencePiece: boolean,
): Piece[] {
  const pieces = Array.from(
    { length: vocabularySize },
    (_, id): Piece => ({ piece: `[PAD${id}]`, type: types.unused }),
  )
  for (const [piece, id] of Object.entries(vocab)) {
    if (id >= vocabularySize) continue
    const isByte = json.model?.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(piece)
    pieces[id] = { piece, type: isByte ? types.byte : types.normal }
  }
  for (const { id, content, special } of json.added_tokens ?? []) {
    if (id >= vocabularySize) continue
    // SentencePiece looks for them before spaces become what they are inside of pieces.
    const isRaw = isSentencePiece && !special
    const piece = isRaw ? content.replaceAll('▁', ' ') : content
    pieces[id] = { piece, type: special ? types.control : types.userDefined }
  }
  return pieces
}

/** SentencePiece ranks pieces by score: those that are merged first have the highest. */
function scores(pieces: readonly Piece[], merges: readonly string[]): number[] {
  const ranks = new Map<string, number>()
  for (const [rank, line] of merges.entries()) {
    const piece = line.replace(' ', '')
    if (!ranks.has(piece)) ranks.set(piece, rank)
  }
  return pieces.map(({ piece }) => -(ranks.get(piece) ?? merges.length))
}
