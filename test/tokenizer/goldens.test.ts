import { describe, expect, test } from 'vitest'
import { goldenNames, goldens, goldenTokenizer } from './goldens.ts'

describe.skipIf(goldens.length === 0)('every golden of the Rust tokenizers library holds', () => {
  for (const name of goldenNames) {
    test(`${name} encodes and decodes the golden texts as the Rust library does`, () => {
      const tokenizer = goldenTokenizer(name)
      const ours = goldens.filter((golden) => golden.tokenizer === name)
      expect(ours.length).toBeGreaterThan(0)
      for (const { text, ids, ids_special, decoded } of ours) {
        expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids)
        expect(tokenizer.encode(text), text).toEqual(ids_special)
        expect(tokenizer.decode(ids), text).toBe(decoded === true ? text : decoded)
      }
    })
  }
})
