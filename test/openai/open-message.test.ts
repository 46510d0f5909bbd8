import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { chatRequest } from '../../src/api/chat.ts'
import { requestLimits } from '../../src/api/limits.ts'
import { chatPrompt } from '../../src/openai/chat-prompt.ts'
import { ChatTemplate, chatTemplateFromConfig } from '../../src/tokenizer/chat-template.ts'
import { SpecialSpellings } from '../../src/tokenizer/special-spellings.ts'
import { sharedData } from '../shared.ts'
import { bytes, byteTokenizer, special } from './byte-tokenizer.ts'
import { events, harness, model, post } from './harness.ts'

const tokenizer = byteTokenizer()
const schema = chatRequest(requestLimits)
const question = { role: 'user', content: 'Capital of France?' }
const closing = new ChatTemplate(
  `{% for m in messages %}<|user|>{{ m.role }}: {{ m.content | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`,
)

function prompt(template: ChatTemplate, content: string, body: object = {}) {
  const messages = [question, { role: 'assistant', content }]
  const request = schema.parse({ model: 'm', messages, continue_final_message: true, ...body })
  return chatPrompt(request, template, new SpecialSpellings(tokenizer))
}

function templateOf(name: string): ChatTemplate | undefined {
  const path = sharedData('tokenizers', name, 'tokenizer_config.json')
  return path === undefined ? undefined : chatTemplateFromConfig(JSON.parse(readFileSync(path, 'utf8')))
}

describe('the prompt of a message that is left open', () => {
  test('ends where the text ends, with the space at its end that a template trims', () => {
    expect(prompt(closing, ' It is \n').text).toBe(
      '<|user|>user: Capital of France?<|end|><|user|>assistant: It is \n',
    )
  })

  test.each(['', 'a', 'assistant: ', 'Capital of France?', 'EndOfTheOpenMessage', 'EndOfTheOpen'])(
    'ends behind the last message, not behind the same text elsewhere: "%s"',
    (content) => {
      expect(prompt(closing, content).text).toBe(
        `<|user|>user: Capital of France?<|end|><|user|>assistant: ${content}`,
      )
    },
  )

  test('takes a special token that the message spells for text', () => {
    const content = 'It ends with <|end|> and <|en'
    const { text, plainAt } = prompt(closing, content)
    expect(text.endsWith(content)).toBe(true)
    const tokens = tokenizer.encode(text, { addSpecial: false, plainAt: plainAt! })
    expect(tokens.filter((token) => token === special.end)).toHaveLength(1)
    expect(tokens.slice(-content.length)).toEqual(bytes(content))
  })

  test.each([
    ['upper', '{{ messages[-1].content | upper }}'],
    ['drops the answer', '{{ messages[0].content }}'],
    ['cuts', '{{ messages[-1].content[2:] }}'],
  ])('is refused where the template rewrites the text: %s', (_, source) => {
    expect(() => prompt(new ChatTemplate(source), 'It is')).toThrow(
      expect.objectContaining({ code: 'chat_template_refused', status: 400 }),
    )
  })

  const qwen = templateOf('qwen3')
  test.skipIf(qwen === undefined)('of Qwen3 thinks no more, or goes on in the thinking that it holds', () => {
    const begin = '<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n'
    const skipped = `${begin}<think>\n\n</think>\n\n`
    expect(prompt(qwen!, 'It is ').text).toBe(`${skipped}It is `)
    for (const thinking of [
      '<think>\nParis, I',
      '<think>\nParis.\n</think>\n\nIt is',
      'Paris.</think>It is',
    ]) {
      expect(prompt(qwen!, thinking).text).toBe(begin + thinking)
      const thinksNot = { chat_template_kwargs: { enable_thinking: false } }
      const opened = thinking.startsWith('<think>') ? begin : skipped
      expect(prompt(qwen!, thinking, thinksNot).text).toBe(opened + thinking)
    }
  })

  test('goes on behind the thinking that a template opens itself and takes out of answers', () => {
    const thinker = new ChatTemplate(
      `{% for m in messages %}<|user|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}`,
    )
    const begin = '<|user|>Capital of France?<|end|><|assistant|>'
    expect(prompt(thinker, '<think>\nParis').text).toBe(`${begin}<think>\nParis`)
    expect(prompt(thinker, 'Paris.\n</think>\n\nIt').text).toBe(`${begin}<think>\nParis.\n</think>\n\nIt`)
    expect(prompt(thinker, 'It').text).toBe('<|user|>Capital of France?<|end|><|user|>It')
  })

  test.skipIf(templateOf('llama3_1') === undefined)(
    'of Llama 3.1 and Gemma 3 is the turn without its end',
    () => {
      const text = 'The capital of France is '
      for (const [name, turn] of [
        ['llama3_1', '<|start_header_id|>assistant<|end_header_id|>\n\n'],
        ['gemma3', '<start_of_turn>model\n'],
      ] as const)
        expect(prompt(templateOf(name)!, text).text.endsWith(turn + text)).toBe(true)
    },
  )
})

describe('continue_final_message', () => {
  const open = {
    model,
    messages: [question, { role: 'assistant', content: 'It is ' }],
    continue_final_message: true,
    max_tokens: 20,
    temperature: 0,
  }
  const path = '/v1/chat/completions'

  test('answers with what is new alone, streamed or not, with usage, log-probabilities and stop strings', async () => {
    await using server = await harness()
    server.engine.script = () => ({ tokens: bytes('Paris, is it not?') })
    for (const more of [{}, { add_generation_prompt: false }, { tools: undefined, tool_choice: 'none' }]) {
      const answer = await post(server.url + path, { ...open, ...more, logprobs: true, stop: [' it '] })
      expect(await answer.json()).toMatchObject({
        choices: [
          {
            message: { role: 'assistant', content: 'Paris, is' },
            finish_reason: 'stop',
            logprobs: { content: [...'Paris, is'].map((token) => ({ token })) },
          },
        ],
        usage: { prompt_tokens: server.engine.submitted.at(-1)!.prompt.length },
      })
      const chunks = await events(
        await post(server.url + path, { ...open, ...more, stream: true, stop: [' it '] }),
      )
      const texts = (chunks.slice(0, -1) as { choices: { delta: { content?: string } }[] }[]).map(
        ({ choices }) => choices[0]?.delta.content ?? '',
      )
      expect(texts.join('')).toBe('Paris, is')
    }
    const expected = [special.user, ...bytes('assistant: It is ')]
    for (const { prompt } of server.engine.submitted) expect(prompt.slice(-expected.length)).toEqual(expected)
  })

  test('without it a conversation may also end as the template ends it, or open an answer behind an answer', async () => {
    await using server = await harness()
    const { continue_final_message: _, ...closed } = open
    await post(server.url + path, { ...closed, add_generation_prompt: false })
    await post(server.url + path, closed)
    const [ended, opened] = server.engine.submitted.map(({ prompt }) => prompt.slice(-2))
    expect(ended).toEqual([...bytes(' '), special.end])
    expect(opened).toEqual([special.end, special.assistant])
  })

  test.each([
    ['an opening too', { add_generation_prompt: true }, 'continue_final_message'],
    ["a question's end", { messages: [question] }, 'messages.0.role'],
    [
      'calls',
      {
        messages: [
          question,
          {
            role: 'assistant',
            content: 'x',
            tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }],
          },
        ],
      },
      'messages.1.tool_calls',
    ],
  ])('is refused with %s', async (_, change, param) => {
    await using server = await harness()
    const answer = await post(server.url + path, { ...open, ...change })
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ error: { param, code: 'invalid_value' } })
    expect(server.engine.submitted).toEqual([])
  })
})
