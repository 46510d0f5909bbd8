/** Texts from files, folders and npm packages, and their tokens split into training and validation. */
import { createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { messageOf, UserError } from '../base/errors.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type FileSource, sourceFiles } from './data/source-files.ts'

const textChoice = { field: 'data.text', endings: /\.(txt|md)$/i, endingNames: '.txt or .md' }

/** JavaScript's strings end a little above. */
const textBytesMax = 500_000_000

export interface Text {
  path: string
  content: string
}

/** Reads all sources: files, and of folders the .txt and .md files in the order of their names. */
export function readTexts(sources: readonly FileSource[], baseFolder: string): Text[] {
  const texts = sources
    .flatMap((source) => sourceFiles(source, baseFolder, textChoice))
    .map((path) => ({ path, content: readText(path) }))
  if (texts.every(({ content }) => content.length === 0)) {
    throw new UserError('The data has no text.', {
      fix: 'Point the field data.text at files that are not empty.',
    })
  }
  return texts
}

function readText(path: string): string {
  const { size } = statSync(path)
  if (size > textBytesMax)
    throw new UserError(
      `${path} has ${Math.round(size / 1e6)} MB; a text is read whole, up to ${textBytesMax / 1e6} MB.`,
      {
        fix: 'Cut it into several files, or write its documents as JSONL ({"text": ...}) and name that in data.train, which is read piece by piece.',
      },
    )
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path))
  } catch (error) {
    throw new UserError(`${path} is not UTF-8 text: ${messageOf(error)}`, { cause: error })
  }
}

export interface Corpus {
  training: readonly Int32Array[]
  validation: readonly Int32Array[]
  /** SHA-256 of the training tokens. */
  hash: string
}

/** The end of every text, `validationShare` of its characters, is held out. */
export function splitTexts(
  texts: readonly Text[],
  validationShare: number,
): { training: Text[]; validation: Text[] } {
  const part = (side: 'before' | 'behind') =>
    texts.flatMap(({ path, content }) => {
      const cut = Math.floor(content.length * (1 - validationShare))
      const kept = side === 'before' ? content.slice(0, cut) : content.slice(cut)
      return kept === '' ? [] : [{ path, content: kept }]
    })
  return { training: part('before'), validation: part('behind') }
}

export function tokenise(tokenizer: Tokenizer, texts: { training: Text[]; validation: Text[] }): Corpus {
  const training = texts.training.map(({ content }) => tokensOf(tokenizer, content))
  const hash = createHash('sha256')
  for (const tokens of training) hash.update(new Uint8Array(tokens.buffer)).update('|')
  return {
    training,
    validation: texts.validation.map(({ content }) => tokensOf(tokenizer, content)),
    hash: hash.digest('hex'),
  }
}

/** One text's tokens, with the end-of-text token behind them where the tokenizer has one. */
function tokensOf(tokenizer: Tokenizer, text: string): Int32Array {
  const parts: Int32Array[] = []
  for (const piece of piecesOf(text))
    parts.push(Int32Array.from(tokenizer.encode(piece, { addSpecial: false, parseSpecial: false })))
  const end = tokenizer.eosTokens[0]
  if (end !== undefined) parts.push(Int32Array.of(end))
  return parts.length === 1 ? parts[0]! : joined(parts)
}

/**
 * Texts of up to this many characters are encoded at once, and longer ones in pieces of whole lines: what encoding notes of a
 * text takes fifty times its memory. At a seam a token may be another than without it.
 */
const pieceCharacters = 8 << 20

export function* piecesOf(text: string, most = pieceCharacters): Generator<string> {
  for (let start = 0; start < text.length; ) {
    const line = text.length - start > most ? text.lastIndexOf('\n', start + most - 1) : -1
    // A single line that is longer stays whole.
    const next = line >= start ? line + 1 : text.indexOf('\n', start + most) + 1
    const end = text.length - start <= most || next === 0 ? text.length : next
    yield text.slice(start, end)
    start = end
  }
}

/** All documents behind one another. */
export function joined(documents: readonly Int32Array[]): Int32Array {
  const stream = new Int32Array(documents.reduce((sum, { length }) => sum + length, 0))
  let place = 0
  for (const tokens of documents) {
    stream.set(tokens, place)
    place += tokens.length
  }
  return stream
}
