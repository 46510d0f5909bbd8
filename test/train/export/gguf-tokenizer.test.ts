import { mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { loadTokenizer, tokenizerFromGguf } from '../../../src/tokenizer/tokenizer.ts'
import { ggufTokenizer } from '../../../src/train/export/gguf-tokenizer.ts'
import { goldenFiles, goldens } from '../../tokenizer/goldens.ts'
import { temporaryFolder } from '../temporary-folder.ts'

const root = temporaryFolder('gguf-tokenizer', afterAll)

function written(name: string, rows: number) {
  const folder = mkdtempSync(join(root, 'of-'))
  const { json, config } = goldenFiles(name)
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json))
  if (config !== undefined) writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
  const entries = ggufTokenizer(folder, loadTokenizer(folder), rows)
  return new Map<string, unknown>([...entries].map(([key, { value }]) => [key, value]))
}

describe.skipIf(goldens.length === 0)('a tokenizer written into a GGUF file', () => {
  // A Gemma 3 that does not see has no row for the place of a picture, the last of its tokenizer.
  test.each([
    ['gemma3', 262_144],
    ['qwen3', 151_936],
    ['tinystories-bpe25k', 25_353],
  ])('of %s cuts as before, and has a piece for each of %d rows', (name, rows) => {
    const metadata = written(name, rows)
    expect(metadata.get('tokenizer.ggml.tokens')).toHaveLength(rows)
    const tokenizer = tokenizerFromGguf(metadata)
    for (const { text, ids, ids_special } of goldens.filter((golden) => golden.tokenizer === name)) {
      expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids)
      expect(tokenizer.encode(text), text).toEqual(ids_special)
    }
  })

  test('of Gemma 3 puts no space in front and says which piece stands for what is unknown', () => {
    const metadata = written('gemma3', 262_144)
    expect(metadata.get('tokenizer.ggml.add_space_prefix')).toBe(false)
    expect(metadata.get('tokenizer.ggml.unknown_token_id')).toBe(3)
  })
})
