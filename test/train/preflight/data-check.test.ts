import { writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { dataReport, needsText, previewText } from '../../../src/cli/data-report.ts'
import { parseTrainingJob } from '../../../src/train/job.ts'
import { checkJob } from '../../../src/train/preflight/job-check.ts'
import { testFolder, write } from '../data/folder.ts'
import { tinyJob } from '../tiny-job.ts'

const folder = testFolder()
const none = () => undefined
const checkData = async (...given: Parameters<typeof checkJob>) => (await checkJob(...given)).data

const chat = (question: string, answer: string) =>
  JSON.stringify({
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ],
  })
const job = (changes: Record<string, unknown>) =>
  parseTrainingJob(
    {
      model: { architecture: 'llama', layers: 1, heads: 2, width: 16 },
      tokenizer: 'characters',
      context: 96,
      batch: 2,
      steps: 10,
      optimizer: { learning_rate: 0.02 },
      ...changes,
    },
    folder,
  )

write(
  folder,
  'chats.jsonl',
  [chat('what moves', 'a cabin'), chat('what stops', 'nothing'), chat('what moves', 'a cabin')].join('\n'),
)
write(folder, 'held.jsonl', [chat('what stops', 'nothing'), chat('what moves', 'a rope')].join('\n'))

const data = { train: 'chats.jsonl', validation: 'held.jsonl' }

test('duplicates, leaked samples and leaked prompts are counted and placed', async () => {
  const check = await checkData(job({ data }), none)
  expect(check).toMatchObject({ kind: 'samples', refusals: [], cut: 0 })
  expect(check.training).toMatchObject({ samples: 3, duplicates: 1 })
  expect(check.training.duplicatePlaces[0]!.at).toMatch(/chats\.jsonl:3$/)
  expect(check.training.duplicatePlaces[0]!.repeats).toMatch(/chats\.jsonl:1$/)
  expect(check.leaks).toMatchObject({ samples: 1, prompts: 1 })
  expect(check.leaks.places.map(({ heldOut }) => heldOut.replace(/.*held/, ''))).toEqual([
    '.jsonl:1',
    '.jsonl:2',
  ])
})

test('the memory of the index over the data is told, some forty bytes a sample', async () => {
  const lines = Array.from({ length: 2000 }, (_, i) => JSON.stringify({ text: `sample ${i}` }))
  write(folder, 'many.jsonl', lines.join('\n'))
  const { needs } = await checkJob(job({ data: { train: 'many.jsonl' } }), none)
  expect(needs.indexBytes / 2000).toBeGreaterThan(16)
  expect(needs.indexBytes / 2000).toBeLessThan(48)
  expect(needsText(needs, undefined, undefined)).toMatch(/the process \S+ \S+ \(the data's index \d/)
})

test('a preview tells the answer and its end, which are learned, from the rest', async () => {
  const { previews } = await checkData(job({ data }), none)
  const learned = previews[0]!.stretches.filter(({ weight }) => weight > 0).map(({ text }) => text)
  expect(learned).toEqual(['a cabin<|im_end|>'])
  expect(previews[0]!.trainedTokens).toBe('a cabin'.length + 1)
  expect(previewText(previews[0]!, undefined)).toContain('⟦a cabin<|im_end|>⟧')
  const painted = (name: string) => (text: string) => `<${name}>${text}</${name}>`
  const names = ['green', 'dim', 'bold', 'red', 'yellow'] as const
  const colours = Object.fromEntries(names.map((name) => [name, painted(name)]))
  const text = previewText(previews[0]!, colours as Record<(typeof names)[number], (text: string) => string>)
  expect(text).toContain('<green>a cabin<|im_end|></green>')
  expect(text).toContain('<dim>what moves<|im_end|></dim>')
  expect(text).not.toContain('⟦')
})

test('what a sample holds cannot move the cursor of the terminal', () => {
  const stretches = [{ text: 'a\u001b[2Jb\nc', weight: 1 }]
  const text = previewText({ at: 'f:1', tokens: 3, trainedTokens: 3, stretches }, undefined)
  expect(text).not.toContain('\u001b')
  expect(text).toContain('a\\x1b[2Jb\n  c')
})

test('every reason against the data is told with file, line and what to do', async () => {
  write(
    folder,
    'bad.jsonl',
    [chat('a', 'b'), chat('a', ' '), '{"messages": [{"role":"user","content":"a"}]}'].join('\n'),
  )
  const check = await checkData(job({ data: { train: 'bad.jsonl', validation: 0 } }), none)
  expect(check.problemCounts).toEqual({ empty: 1, nothing_trained: 1 })
  expect(check.refusals).toHaveLength(1)
  expect(check.refusals[0]!.message).toMatch(
    /bad\.jsonl:2: .*empty[\s\S]*bad\.jsonl:3: no token of it is learned/,
  )
  const report = dataReport(check, undefined)
  expect(report).toContain('1 empty, 1 nothing trained')
  expect(report).toMatch(/refused: 2 records cannot be learned from/)
})

test('lengths are counted in powers of two', async () => {
  write(
    folder,
    'texts.jsonl',
    [3, 4, 7, 8, 40].map((n) => JSON.stringify({ text: 'x'.repeat(n - 1) })).join('\n'),
  )
  const check = await checkData(job({ data: { train: 'texts.jsonl', validation: 0 } }), none)
  expect(check.training.lengths).toMatchObject({ min: 3, median: 7, max: 40 })
  expect(check.training.lengths.buckets).toEqual([
    { from: 2, to: 3, samples: 1 },
    { from: 4, to: 7, samples: 2 },
    { from: 8, to: 15, samples: 1 },
    { from: 32, to: 63, samples: 1 },
  ])
})

test('text that is held out and learned from is found by its runs of 50 tokens', async () => {
  const plain = tinyJob(folder)
  expect((await checkData(plain, none)).leaks.overlap).toBe(0)
  const line = Array.from({ length: 200 }, (_, i) =>
    String.fromCharCode(97 + ((i * i + (i >> 3)) % 26)),
  ).join('')
  writeFileSync(`${folder}/text.txt`, `${line}${'-'.repeat(300)}${line}`)
  const leaking = parseTrainingJob(
    {
      model: { architecture: 'gpt2', layers: 1, heads: 1, width: 8 },
      data: { text: 'text.txt', validation: 0.3 },
      tokenizer: 'characters',
      context: 12,
      batch: 3,
      steps: 12,
      optimizer: { learning_rate: 0.01 },
    },
    folder,
  )
  const check = await checkData(leaking, none)
  // Four runs are held out; the first begins with what stands before the repetition.
  expect(check.leaks.overlap).toBe(0.75)
  expect(check.warnings.join()).toMatch(/held-out text is learned from/)
})

test('a warm-up as long as the run is a warning that names its field, and a shorter one is none', async () => {
  const said = async (warmup_steps: number) =>
    (await checkData(job({ data, steps: 50, schedule: { warmup_steps } }), none)).warnings.join()
  expect(await said(50)).toContain('schedule.warmup_steps is 50 and the run has 50 steps: the rate never')
  expect(await said(49)).not.toContain('warmup_steps')
})

test('a template that the tokenizer cannot write is refused with its file and line', async () => {
  const lines = ['{% for m in messages %}', '<|{{ m.role }}|>{{ m.content }}', '{% endfor %}']
  write(folder, 'alien.jinja', lines.join('\n'))
  const alien = job({ data: { ...data, template: 'alien.jinja' } })
  await expect(checkData(alien, none)).rejects.toThrow(/alien\.jinja:2: the chat template writes <\|user\|>/)
})
