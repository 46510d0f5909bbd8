import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import {
  ChatTemplate,
  chatTemplateFromConfig,
  chatTemplateFromFolder,
  chatTemplateFromGguf,
} from '../../src/tokenizer/chat-template.ts'
import { sharedData } from '../shared.ts'

const messages = [
  { role: 'system', content: 'Be kind.' },
  { role: 'user', content: 'Hi' },
  { role: 'assistant', content: '안녕' },
  { role: 'user', content: 'Bye' },
]
const tools = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object' } } }]
const simple =
  "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"

test('a conversation is rendered with the special tokens and the opening of the answer', () => {
  const template = new ChatTemplate(simple, { bos_token: '<s>' })
  expect(template.render({ messages: messages.slice(1), addGenerationPrompt: true })).toBe(
    '<s>[user] Hi\n[assistant] 안녕\n[user] Bye\n[assistant]',
  )
  expect(template.render({ messages: [], addGenerationPrompt: false })).toBe('<s>')
})

test('extra variables reach the template but cannot replace the messages', () => {
  const template = new ChatTemplate('{{ mood }} {{ messages | length }}')
  const extra = { mood: 'calm', messages: [] }
  expect(template.render({ messages, addGenerationPrompt: false, extra })).toBe('calm 4')
})

test('absent tools are none, so that templates can test for them', () => {
  const template = new ChatTemplate('{% if tools is not none %}tools{% else %}no tools{% endif %}')
  expect(template.render({ messages, addGenerationPrompt: false })).toBe('no tools')
  expect(template.render({ messages, addGenerationPrompt: false, tools: [] })).toBe('no tools')
  expect(template.render({ messages, addGenerationPrompt: false, tools })).toBe('tools')
})

test.each([
  ['what it raises', "{{ raise_exception('Roles must alternate') }}", 'Roles must alternate'],
  ['arithmetic on something undefined', '{{ messages[9].content + 1 }}', 'undefined'],
  ['an unknown filter', '{{ messages | shuffle }}', 'shuffle'],
])('a template that stops at %s is a user error that says so', (_, source, message) => {
  const render = () => new ChatTemplate(source).render({ messages, addGenerationPrompt: true })
  expect(render).toThrow(expect.objectContaining({ name: 'UserError' }))
  expect(render).toThrow(message)
})

test('a source that is not Jinja is refused when it is loaded', () => {
  expect(() => new ChatTemplate('{% for %}')).toThrow('not valid Jinja')
  expect(() => new ChatTemplate('{% for %}', {}, 'models/tiny')).toThrow('in models/tiny is not valid')
})

test('of several templates the one for tools serves tools, and any is had by name', () => {
  const template = new ChatTemplate({ default: 'plain', tool_use: 'tools', rag: 'documents' })
  const base = { messages, addGenerationPrompt: false }
  expect(template.render(base)).toBe('plain')
  expect(template.render({ ...base, tools })).toBe('tools')
  expect(template.render({ ...base, template: 'rag' })).toBe('documents')
  expect(() => template.render({ ...base, template: 'none' })).toThrow('no chat template "none"')
})

describe('a template is found', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-template-'))
  afterAll(() => rmSync(folder, { recursive: true }))
  const render = (template: ChatTemplate | undefined, name?: string) =>
    template?.render({
      messages,
      addGenerationPrompt: false,
      ...(name === undefined ? {} : { template: name }),
    })

  test('in tokenizer_config.json, as a text or as a list with names', () => {
    expect(
      render(chatTemplateFromConfig({ chat_template: '{{ eos_token }}', eos_token: { content: '</s>' } })),
    ).toBe('</s>')
    const list = [
      { name: 'default', template: 'a' },
      { name: 'rag', template: 'b' },
    ]
    expect(render(chatTemplateFromConfig({ chat_template: list }), 'rag')).toBe('b')
    expect(chatTemplateFromConfig({})).toBeUndefined()
  })

  test('in a model folder, files before the configuration', () => {
    expect(chatTemplateFromFolder(folder)).toBeUndefined()
    writeFileSync(
      join(folder, 'tokenizer_config.json'),
      JSON.stringify({ chat_template: 'old', bos_token: '<s>' }),
    )
    expect(render(chatTemplateFromFolder(folder))).toBe('old')
    writeFileSync(join(folder, 'chat_template.jinja'), '{{ bos_token }}new')
    mkdirSync(join(folder, 'additional_chat_templates'))
    writeFileSync(join(folder, 'additional_chat_templates', 'rag.jinja'), 'documents')
    expect(render(chatTemplateFromFolder(folder))).toBe('<s>new')
    expect(render(chatTemplateFromFolder(folder), 'rag')).toBe('documents')
  })

  test('in GGUF metadata, with the special tokens of its vocabulary', () => {
    const metadata = new Map<string, unknown>([
      ['tokenizer.chat_template', '{{ bos_token }}{{ eos_token }}'],
      ['tokenizer.chat_template.rag', 'documents'],
      ['tokenizer.ggml.tokens', ['<s>', '</s>']],
      ['tokenizer.ggml.bos_token_id', 0],
      ['tokenizer.ggml.eos_token_id', 1n],
    ])
    expect(render(chatTemplateFromGguf(metadata))).toBe('<s></s>')
    expect(render(chatTemplateFromGguf(metadata), 'rag')).toBe('documents')
    expect(chatTemplateFromGguf(new Map())).toBeUndefined()
  })
})

describe.skipIf(sharedData('tokenizers') === undefined)('the templates of real models', () => {
  const load = (name: string) =>
    chatTemplateFromConfig(
      JSON.parse(readFileSync(sharedData('tokenizers', name, 'tokenizer_config.json')!, 'utf8')),
    )!

  test('Qwen3 renders turns, a switched-off thought and tools', () => {
    const template = load('qwen3')
    const turns =
      '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n안녕<|im_end|>\n' +
      '<|im_start|>user\nBye<|im_end|>\n'
    expect(template.render({ messages, addGenerationPrompt: true })).toBe(`${turns}<|im_start|>assistant\n`)
    const extra = { enable_thinking: false }
    expect(template.render({ messages, addGenerationPrompt: true, extra })).toBe(
      `${turns}<|im_start|>assistant\n<think>\n\n</think>\n\n`,
    )
    expect(template.render({ messages, addGenerationPrompt: true, tools })).toContain(
      '<tools>\n{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}\n</tools>',
    )
  })

  test('Llama 3.1 begins with its BOS token', () => {
    expect(load('llama3_1').render({ messages: messages.slice(1, 2), addGenerationPrompt: true })).toBe(
      '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>' +
        '<|start_header_id|>assistant<|end_header_id|>\n\n',
    )
  })

  test('Gemma 3 refuses roles that do not alternate', () => {
    const twice = [messages[1], messages[1]]
    expect(() => load('gemma3').render({ messages: twice, addGenerationPrompt: true })).toThrow(
      'must alternate',
    )
  })
})
