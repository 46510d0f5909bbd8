import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { loadTokenizer, type Tokenizer, tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { sharedData } from '../shared.ts'

/** One text with the ids of the Rust `tokenizers` library; `decoded` is true where decoding gives the text back. */
export interface Golden {
  tokenizer: string
  text: string
  ids: number[]
  ids_special: number[]
  decoded: true | string
}

export const folder = sharedData('tokenizers')
export const goldens: Golden[] =
  folder === undefined
    ? []
    : readFileSync(join(folder, 'golden.jsonl'), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))

export const goldenNames = [...new Set(goldens.map((golden) => golden.tokenizer))]

const loaded = new Map<string, Tokenizer>()

/** The tokenizer that the goldens call `name`; loaded once for each test file. */
export function goldenTokenizer(name: string): Tokenizer {
  const tokenizer = loaded.get(name) ?? load(name)
  loaded.set(name, tokenizer)
  return tokenizer
}

function load(name: string): Tokenizer {
  const model = sharedData('models')
  if (model !== undefined && existsSync(join(model, name))) return loadTokenizer(join(model, name, 'hf'))
  const { json, config } = goldenFiles(name)
  return tokenizerFromJson(json, config)
}

/** The parsed tokenizer.json and tokenizer_config.json of a tokenizer that lies there compressed. */
export function goldenFiles(name: string): { json: unknown; config: unknown } {
  const path = [join(folder!, name, 'tokenizer.json.gz'), join(folder!, `${name}.tokenizer.json.gz`)].find(
    existsSync,
  )
  const config = join(folder!, name, 'tokenizer_config.json')
  return {
    json: JSON.parse(gunzipSync(readFileSync(path!)).toString()),
    config: existsSync(config) ? JSON.parse(readFileSync(config, 'utf8')) : undefined,
  }
}
