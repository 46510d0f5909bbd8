import { describe, expect, test } from 'vitest'
import { fillInPrompt } from '../../src/tokenizer/fill-in.ts'
import { type Tokenizer, tokenizerFromGguf, tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { addedToken, byteFallbackJson, byteLevelJson } from '../tokenizer/small-tokenizers.ts'
import { bytes, byteTokenizer, special } from './byte-tokenizer.ts'
import { harness, model, post } from './harness.ts'

const marks = ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', '<|fim_pad|>', '<|file_sep|>']
const [prefix, suffix, middle, pad, separator] = [260, 261, 262, 263, 264] as const
const gap = { model, prompt: 'a = (', suffix: ')\n', max_tokens: 4, temperature: 0 }

async function asked(tokenizer: Tokenizer, body: object) {
  await using server = await harness({ tokenizer })
  server.engine.info = { ...server.engine.info, vocabularySize: 1100 }
  const response = await post(`${server.url}/v1/completions`, body)
  const answer = (await response.json()) as { error?: { message: string; param: string } }
  return { status: response.status, answer, request: server.engine.submitted[0] }
}

describe('a completion with a suffix', () => {
  test('stands between tokens that mark prefix, suffix and gap, and ends at any of them', async () => {
    const { status, request } = await asked(byteTokenizer(marks), gap)
    expect(status).toBe(200)
    expect(request!.prompt).toEqual([prefix, ...bytes('a = ('), suffix, ...bytes(')\n'), middle])
    expect(request!.stopTokens).toEqual([special.end, prefix, suffix, middle, pad, separator])
    const plain = await asked(byteTokenizer(marks), { ...gap, suffix: null })
    expect(plain.request!.prompt).toEqual(bytes('a = ('))
    expect(plain.request!.stopTokens).toEqual([special.end])
  })

  test('may be empty, and goes with token ids and several prompts', async () => {
    const { request } = await asked(byteTokenizer(marks), { ...gap, prompt: bytes('x'), suffix: '' })
    expect(request!.prompt).toEqual([prefix, ...bytes('x'), suffix, middle])
    await using server = await harness({ tokenizer: byteTokenizer(marks) })
    server.engine.info = { ...server.engine.info, vocabularySize: 1100 }
    await post(`${server.url}/v1/completions`, { ...gap, prompt: ['x', 'y'], suffix: 'z' })
    expect(server.engine.submitted.map((one) => one.prompt)).toEqual(
      ['x', 'y'].map((text) => [prefix, ...bytes(text), suffix, ...bytes('z'), middle]),
    )
  })

  test('is text where it spells such a token, also where the tokenizer finds them in any text', async () => {
    const json = byteLevelJson({
      // As Qwen2.5-Coder has them: not special.
      added_tokens: marks.map((content, i) => ({ ...addedToken(1000 + i, content), special: false })),
    })
    const tokenizer = tokenizerFromJson(json)
    expect(tokenizer.encode('<|fim_middle|>')).toEqual([1002])
    const { request } = await asked(tokenizer, { ...gap, prompt: '<|fim_middle|>', suffix: '<|fim_pad|>' })
    expect(request!.prompt.filter((token) => token >= 1000)).toEqual([1000, 1001, 1002])
    expect(request!.prompt[0]).toBe(1000)
    expect(tokenizer.decode(request!.prompt)).toBe(
      '<|fim_prefix|><|fim_middle|><|fim_suffix|><|fim_pad|><|fim_middle|>',
    )
  })

  test('is refused where the tokenizer has no such tokens, and echo beside it', async () => {
    const refused = await asked(byteTokenizer(), gap)
    expect(refused.status).toBe(400)
    expect(refused.answer.error).toMatchObject({ param: 'suffix', code: 'unsupported_parameter' })
    expect(refused.answer.error!.message).toMatch(/does not fill in before a suffix/)
    expect(refused.request).toBeUndefined()
    const echoed = await asked(byteTokenizer(marks), { ...gap, echo: true })
    expect(echoed.answer.error!.param).toBe('echo')
  })

  test('counts against the context together with its prompt', async () => {
    const { status, answer } = await asked(byteTokenizer(marks), {
      ...gap,
      prompt: 'x'.repeat(255),
      suffix: 'y'.repeat(255),
    })
    expect(status).toBe(400)
    expect(answer.error!.message).toMatch(/513 tokens/)
  })
})

test('SentencePiece puts no space before a suffix, and the text begins with BOS', async () => {
  const marks = ['▁<PRE>', '▁<SUF>', '▁<MID>', '▁<EOT>']
  const base = byteFallbackJson()
  const tokenizer = tokenizerFromJson(
    {
      ...base,
      added_tokens: [
        ...(base.added_tokens as object[]),
        ...marks.map((text, i) => addedToken(1000 + i, text)),
      ],
    },
    { bos_token: '<s>' },
  )
  const { request } = await asked(tokenizer, { ...gap, prompt: 'the', suffix: 'the' })
  const ids = (...pieces: string[]) => pieces.map((piece) => tokenizer.idOf(piece))
  expect(request!.prompt).toEqual(ids('<s>', '▁<PRE>', '▁the', '▁<SUF>', 't', 'he', '▁<MID>'))
  expect(request!.stopTokens).toEqual(expect.arrayContaining(ids('▁<EOT>')))
})

describe('the tokens of a family', () => {
  const order = (spellings: string[]) => {
    const json = byteLevelJson({ added_tokens: spellings.map((text, i) => addedToken(1000 + i, text)) })
    const tokenizer = tokenizerFromJson(json)
    return fillInPrompt(tokenizer.fillIn!, [1], [2]).map((token) =>
      token < 1000 ? token : tokenizer.textOf(token),
    )
  }

  test.each([
    [
      'StarCoder',
      ['<fim_prefix>', '<fim_middle>', '<fim_suffix>'],
      ['<fim_prefix>', 1, '<fim_suffix>', 2, '<fim_middle>'],
    ],
    [
      'DeepSeek',
      ['<｜fim▁hole｜>', '<｜fim▁begin｜>', '<｜fim▁end｜>'],
      ['<｜fim▁begin｜>', 1, '<｜fim▁hole｜>', 2, '<｜fim▁end｜>'],
    ],
    ['Codestral', ['[PREFIX]', '[MIDDLE]', '[SUFFIX]'], ['[SUFFIX]', 2, '[PREFIX]', 1]],
  ])('%s stand in its order', (_, spellings, expected) => {
    expect(order(spellings)).toEqual(expected)
  })

  test('are those that a GGUF file names, under new names and old, else those that are spelt', () => {
    const pieces = [...'abcdefgh', 'ab', '<A>', '<B>', '<C>', '<fim_prefix>', '<fim_suffix>', '<fim_middle>']
    const control = 3
    const metadata = (more: Record<string, number>) =>
      new Map<string, unknown>([
        ['tokenizer.ggml.model', 'gpt2'],
        ['tokenizer.ggml.pre', 'gpt-2'],
        ['tokenizer.ggml.tokens', pieces],
        ['tokenizer.ggml.token_type', pieces.map((_, id) => (id < 9 ? 1 : control))],
        ['tokenizer.ggml.merges', ['a b']],
        ...Object.entries(more).map(([name, id]) => [`tokenizer.ggml.${name}_token_id`, id] as const),
      ])
    const read = (more: Record<string, number>) => tokenizerFromGguf(metadata(more)).fillIn
    const named = { prefix: 9, suffix: 10, middle: 11 }
    expect(read({ fim_pre: 9, fim_suf: 10, fim_mid: 11, fim_sep: 8 })).toEqual({ ...named, others: [8] })
    expect(read({ prefix: 9, suffix: 10, middle: 11 })).toEqual({ ...named, others: [] })
    expect(read({})).toEqual({ prefix: 12, suffix: 13, middle: 14, others: [] })
  })
})
