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
): { training: string[]; validation: string[] } {
  const cuts = texts.map(({ content }) => Math.floor(content.length * (1 - validationShare)))
  const training = texts.map(({ content }, i) => content.slice(0, cuts[i]))
  const validation = texts.map(({ content }, i) => content.slice(cuts[i]))
  const filled = (text: string) => text.length > 0
  return { training: training.filter(filled), validation: validation.filter(filled) }
}

export function tokenise(tokenizer: Tokenizer, texts: { training: string[]; validation: string[] }): Corpus {
  const training = texts.training.map((text) => tokensOf(tokenizer, text))
  const hash = createHash('sha256')
  for (const tokens of training) hash.update(new Uint8Array(tokens.buffer)).update('|')
  return {
    training,
    validation: texts.validation.map((text) => tokensOf(tokenizer, text)),
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
