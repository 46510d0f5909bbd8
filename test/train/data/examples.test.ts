import { describe, expect, test } from 'vitest'
import { ExampleReader, type Format } from '../../../src/train/data/examples.ts'

const source = { file: 'f.jsonl', line: 7 }
const read = (value: Record<string, unknown>, format?: Format) =>
  new ExampleReader(format).read({ value, source })
const user = (content: string) => ({ role: 'user', content })
const assistant = (content: string) => ({ role: 'assistant', content })

describe('every form of a conversation is the same conversation', () => {
  const forms: [string, Record<string, unknown>][] = [
    ['OpenAI', { messages: [user('q'), assistant('a')] }],
    [
      'OpenAI in parts',
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'q' }] }, assistant('a')] },
    ],
    ['prompt and completion', { prompt: 'q', completion: 'a' }],
    ['messages and a completion', { prompt: [user('q')], completion: [assistant('a')] }],
    ['question and answer', { question: 'q', answer: 'a', other: 1 }],
    ['Alpaca', { instruction: 'q', input: '', output: 'a' }],
    [
      'ShareGPT',
      {
        conversations: [
          { from: 'human', value: 'q' },
          { from: 'gpt', value: 'a' },
        ],
      },
    ],
  ]
  test.each(forms)('%s', (_, value) => {
    expect(read(value)).toEqual({
      kind: 'chat',
      conversation: { messages: [user('q'), assistant('a')] },
      source,
    })
  })
})

test('tools, calls and their results are kept, whatever form they come in', () => {
  const f = { name: 'f', description: 'd' }
  const call = { type: 'function', function: { name: 'f', arguments: { x: 1 } } }
  const expected = {
    tools: [{ type: 'function', function: f }],
    messages: [
      user('q'),
      { role: 'assistant', content: null, tool_calls: [call] },
      { role: 'tool', content: '1' },
    ],
  }
  const turns = [
    { from: 'human', value: 'q' },
    { from: 'function_call', value: '{"name": "f", "arguments": {"x": 1}}' },
    { from: 'observation', value: '1' },
  ]
  expect(read({ conversations: turns, tools: JSON.stringify([f]) })).toMatchObject({ conversation: expected })
  expect(read({ ...expected, parallel_tool_calls: false })).toMatchObject({
    conversation: { ...expected, extra: { parallel_tool_calls: false } },
  })
})

describe('every form of a preference is the same preference', () => {
  const [chosen, rejected] = [assistant('good'), assistant('bad')]
  const forms: [string, Record<string, unknown>][] = [
    [
      'OpenAI',
      { input: { messages: [user('q')] }, preferred_output: [chosen], non_preferred_output: [rejected] },
    ],
    ['texts', { prompt: 'q', chosen: 'good', rejected: 'bad' }],
    ['messages', { prompt: [user('q')], chosen: [chosen], rejected: [rejected] }],
    ['whole conversations', { chosen: [user('q'), chosen], rejected: [user('q'), rejected] }],
    [
      'whole conversations and the prompt',
      { prompt: 'q', chosen: [user('q'), chosen], rejected: [user('q'), rejected] },
    ],
    [
      'ShareGPT',
      {
        conversations: [{ from: 'human', value: 'q' }],
        chosen: { from: 'gpt', value: 'good' },
        rejected: { from: 'gpt', value: 'bad' },
      },
    ],
  ]
  test.each(forms)('%s', (_, value) => {
    expect(read(value)).toEqual({
      kind: 'pair',
      prompt: { messages: [user('q')] },
      chosen: [chosen],
      rejected: [rejected],
      source,
    })
  })
})

test('a verdict is read from a conversation or from a prompt, as true and false or as 1 and 0', () => {
  const conversation = { messages: [user('q'), assistant('a')] }
  expect(read({ ...conversation, label: true })).toMatchObject({
    kind: 'rating',
    desirable: true,
    conversation,
  })
  const row = { prompt: 'q', completion: 'a', label: '0' }
  expect(read(row, 'ratings')).toMatchObject({ kind: 'rating', desirable: false, conversation })
  expect(() => read({ ...row, label: 'so so' }, 'ratings')).toThrow(
    /f\.jsonl:7: label: expected true or false/,
  )
})

test('a file keeps the format of its first record, and one of another kind is told as that', () => {
  const reader = new ExampleReader()
  reader.read({ value: { text: 'a' }, source })
  expect(reader.read({ value: { text: 'b', label: true, answer: 'c' }, source })).toMatchObject({ text: 'b' })
  const chat = { value: { prompt: 'q', completion: 'a' }, source }
  expect(() => reader.read(chat)).toThrow(
    'f.jsonl:7: the fields prompt, completion are prompt, and the first record of the file is text.',
  )
  expect(() => reader.read({ value: { text: {} }, source })).toThrow(/^f\.jsonl:7: text: expected/)
  expect(() => new ExampleReader('text').read(chat)).toThrow(/^f\.jsonl:7: text: expected/)
})

describe('a wrong record is named by line and field', () => {
  const wrong: [RegExp, Record<string, unknown>][] = [
    [/the fields a, b are no format that is known/, { a: 1, b: 2 }],
    [
      /messages\.1\.content: expected a text or a list/,
      { messages: [user('q'), { role: 'assistant', content: 4 }] },
    ],
    [/messages\.0\.role/, { messages: [{ role: 'robot', content: 'x' }] }],
    [/messages\.0\.role/, { messages: [{ content: 'x' }, assistant('a')] }],
    [/messages\.1\.role/, { messages: [user('q'), { content: 'x' }] }],
    [/messages\.0\.from/, { messages: [{ role: 'user' }, { from: 'gpt', value: 'x', content: 'x' }] }],
    [/messages\.0\.weight/, { messages: [{ role: 'assistant', content: 'x', weight: 2 }] }],
    [
      /messages\.0\.content/,
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
    ],
    [
      /messages\.0\.tool_calls\.0\.function\.name/,
      { messages: [{ role: 'assistant', tool_calls: [{ function: {} }] }] },
    ],
    [/messages: expected a message/, { messages: [] }],
    [/conversations\.0\.from: alien is none of/, { conversations: [{ from: 'alien', value: 'x' }] }],
    [
      /conversations\.0\.value: the text is not JSON/,
      { conversations: [{ from: 'function_call', value: '{' }] },
    ],
    [/tools: the text is not JSON/, { messages: [user('q')], tools: '[' }],
    [/tools\.0\.function/, { messages: [user('q')], tools: [{ type: 'function' }] }],
    [/functions: use tools/, { messages: [user('q')], functions: [] }],
    [/function_call/, { messages: [{ role: 'assistant', function_call: { name: 'f' } }] }],
    [/input: expected an object/, { input: 'q', preferred_output: [], non_preferred_output: [] }],
  ]
  test.each(wrong)('%s', (message, value) => {
    expect(() => read(value)).toThrow(message)
    expect(() => read(value)).toThrow(/^f\.jsonl:7: /)
  })
})
