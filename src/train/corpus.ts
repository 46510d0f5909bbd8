/** Texts from files, folders and npm packages, and their tokens split into training and validation. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { messageOf, UserError } from '../base/errors.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type FileSource, sourceFiles } from './data/source-files.ts'

const textChoice = { field: 'data.text', endings: /\.(txt|md)$/i, endingNames: '.txt or .md' }

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
  const tokens: number[] = []
  const ids = tokenizer.encode(text, { addSpecial: false, parseSpecial: false })
  for (const id of ids) tokens.push(id)
  const end = tokenizer.eosTokens[0]
  return Int32Array.from(end === undefined ? tokens : [...tokens, end])
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
