import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { Random } from '../../../src/base/random.ts'
import { chatTemplateFromFolder } from '../../../src/tokenizer/chat-template.ts'
import { loadTokenizer } from '../../../src/tokenizer/tokenizer.ts'
import { parseTrainingJob } from '../../../src/train/job.ts'
import type { JobStart } from '../../../src/train/run-callbacks.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import { hashOf } from '../tiny-job.ts'
import { testFolder, write } from './folder.ts'

const folder = testFolder()
const random = new Random(2)
const words = ['rope', 'way', 'cabin', 'joins', 'leaves']
const records = Array.from({ length: 60 }, () => {
  const word = words[random.integer(words.length)]!
  const count = 1 + random.integer(3)
  return {
    messages: [
      { role: 'user', content: `${count} ${word}` },
      { role: 'assistant', content: `${word} `.repeat(count).trim() },
    ],
  }
})
write(folder, 'chats.jsonl', records.map((one) => JSON.stringify(one)).join('\n'))

const fields = (changes: Record<string, unknown> = {}) => ({
  model: { architecture: 'llama', layers: 2, heads: 2, width: 32 },
  data: { train: 'chats.jsonl', validation: 0.1 },
  tokenizer: 'characters',
  context: 96,
  batch: 2,
  steps: 60,
  optimizer: { learning_rate: 0.02 },
  schedule: { warmup_steps: 5 },
  evaluate: { every: 60, batches: 2 },
  checkpoint: { every: 30, keep: 3 },
  threads: 1,
  device: 'cpu',
  ...changes,
})
const job = (changes: Record<string, unknown> = {}) => parseTrainingJob(fields(changes), folder)

test('the example is a job that learns from a table', () => {
  const example = join(import.meta.dirname, '..', '..', '..', 'examples', 'chat')
  const { data } = parseTrainingJob(parse(readFileSync(join(example, 'job.yml'), 'utf8')), example)
  expect(data).toMatchObject({ train: [{ columns: { prompt: 'Q', completion: 'A' } }], validation: 0.05 })
})

describe('a job that learns from chats', () => {
  test('gets better at answers that it never saw, and says what it learns from', async () => {
    const losses: number[] = []
    const started: JobStart[] = []
    const { outcome, folder: saved } = await runTrainingJob(
      job({ out: 'a', evaluate: { every: 10, batches: 2 } }),
      { onEvaluation: ({ loss }) => losses.push(loss!), onStart: (start) => started.push(start) },
    )
    expect(outcome).toBe('finished')
    expect(losses.at(-1)).toBeLessThan(0.6 * losses[0]!)
    const { samples } = started[0]!
    expect(samples).toMatchObject({ cut: 0, skipped: 0 })
    expect(samples!.training + samples!.validation).toBe(60)
    expect(samples!.fillRate).toBeGreaterThan(0.8)
    expect(samples!.trainedShare).toBeGreaterThan(0.1)
    expect(samples!.trainedShare).toBeLessThan(0.4)
    const tokenizer = loadTokenizer(saved)
    const template = chatTemplateFromFolder(saved)!
    const text = template.render({
      messages: [{ role: 'user', content: '2 way' }],
      addGenerationPrompt: true,
    })
    expect(tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))).toBe(text)
    expect(tokenizer.eosTokens.map((token) => tokenizer.textOf(token))).toEqual([
      '<|im_end|>',
      '<|endoftext|>',
    ])
  })

  test('goes on bit for bit after an interruption, from the cache too', async () => {
    const whole = await runTrainingJob(job({ out: 'b' }))
    const cached = { ...job({ out: 'c' }), cacheFolder: join(folder, 'cache') }
    const stop = new AbortController()
    const stopped = await runTrainingJob(
      cached,
      { onStep: ({ step }) => (step === 40 ? stop.abort() : undefined) },
      stop.signal,
    )
    expect(stopped.outcome).toBe('stopped')
    const resumed = await runTrainingJob(cached)
    expect(hashOf(resumed.folder)).toBe(hashOf(whole.folder))
  })

  test('continues a model with the template that it was given', async () => {
    const first = await runTrainingJob(job({ out: 'd', steps: 2 }))
    const { tokenizer: _, ...rest } = fields({ out: 'e', steps: 2 })
    const second = await runTrainingJob(parseTrainingJob({ ...rest, model: { from: first.folder } }, folder))
    for (const name of ['chat_template.jinja', 'tokenizer.json', 'generation_config.json'])
      expect(readFileSync(join(second.folder, name), 'utf8')).toBe(
        readFileSync(join(first.folder, name), 'utf8'),
      )
  })

  test('mixes sources, and takes held-out records of their own', async () => {
    write(folder, 'more.csv', 'Q,A\n1 way,way\n2 rope,rope rope\n')
    const data = {
      train: [
        { path: 'chats.jsonl', weight: 3 },
        { path: 'more.csv', columns: { prompt: 'Q', completion: 'A' }, weight: 1 },
      ],
      validation: [{ path: 'chats.jsonl' }],
    }
    const started: JobStart[] = []
    await runTrainingJob(job({ out: 'f', steps: 2, data }), { onStart: (start) => started.push(start) })
    expect(started[0]!.samples).toMatchObject({ training: 62, validation: 60 })
  })
})

describe('a job is refused', () => {
  const cases: [string, RegExp, unknown, string?][] = [
    [
      'with every record that teaches nothing',
      /2 records cannot be learned from:\n.*bad\.jsonl:1: .*\n.*bad\.jsonl:3: /,
      { train: 'bad.jsonl' },
    ],
    ['when nothing is left', /no sample to learn from/, { train: 'empty.jsonl' }],
    [
      'when the stop token is never learned',
      /never learn to stop/,
      { train: 'chats.jsonl', template: 'bare.jinja' },
    ],
    [
      'when the template writes unknown tokens',
      /writes <\|user\|>, which is no token/,
      { train: 'chats.jsonl', template: 'alien.jinja' },
    ],
    [
      'when the template writes unknown characters',
      /characters of it are lost|cannot/,
      { train: 'chats.jsonl', template: 'thorn.jinja' },
    ],
    [
      'when the template is no Jinja',
      /The chat template in .*broken\.jinja is not valid Jinja/,
      { train: 'chats.jsonl', template: 'broken.jinja' },
    ],
    [
      'when the template is not there',
      /no\.jinja cannot be read/,
      { train: 'chats.jsonl', template: 'no.jinja' },
    ],
  ]
  write(folder, 'empty.jsonl', '\n')
  write(
    folder,
    'bad.jsonl',
    [
      { prompt: 'way', completion: '' },
      { prompt: 'way', completion: 'way' },
      { prompt: 'rope', completion: ' ' },
    ]
      .map((one) => JSON.stringify(one))
      .join('\n'),
  )
  const loop = (content: string) => `{% for m in messages %}${content}{% endfor %}`
  write(
    folder,
    'bare.jinja',
    `${loop('{{ m.role }}: {{ m.content }}\n')}{% if add_generation_prompt %}assistant:{% endif %}`,
  )
  write(folder, 'alien.jinja', loop('<|{{ m.role }}|>{{ m.content }}'))
  write(folder, 'broken.jinja', '{% for %}')
  write(folder, 'thorn.jinja', loop('þ{{ m.content }}'))

  test.each(cases)('%s', async (_, message, data) => {
    await expect(runTrainingJob(job({ out: 'never', data }))).rejects.toThrow(message)
  })

  test('when every answer is cut before its end', async () => {
    const data = { train: 'chats.jsonl', unusable: 'skip' }
    await expect(runTrainingJob(job({ out: 'never', context: 26, data }))).rejects.toThrow(
      /every sample is cut to the context, so that none has its end/,
    )
  })

  test('by the field that is wrong', () => {
    const wrong: [RegExp, unknown][] = [
      [/The field data\.trian is not a field/, { train: 'chats.jsonl', trian: 1 }],
      [/The field data\.train/, { train: [] }],
      [/The field data\.too_long/, { train: 'chats.jsonl', too_long: 'perhaps' }],
      [/The field data\.columns/, { train: 'chats.jsonl', columns: { prompt: 0 } }],
      [
        /gives a source less than/,
        {
          train: [
            { path: 'a', weight: 1000 },
            { path: 'b', weight: 1 },
          ],
        },
      ],
    ]
    for (const [message, data] of wrong) expect(() => job({ data })).toThrow(message)
  })
})
