/** The JSON schemas that editors use say of a file what the commands say that read it. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { deploymentUpdate } from '../../src/api/control/deployments.ts'
import { parseRunJob } from '../../src/api/control/job-file.ts'
import { manifest } from '../../src/api/control/manifest.ts'
import { readManifests } from '../../src/cli/apply/manifests.ts'
import { type SchemaName, schemaNames, schemaOf } from '../../src/cli/schemas.ts'
import { parseTrainingJob } from '../../src/train/job.ts'
import { ropeway } from './command-line.ts'

const root = join(import.meta.dirname, '..', '..')
const examples = readdirSync(join(root, 'examples'), { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.yml'))
  .map((path) => join('examples', path))

const check = Object.fromEntries(
  Object.keys(schemaNames).map((name) => [
    name,
    new Ajv2020({ strict: true, strictRequired: false, allErrors: true, validateFormats: false }).compile(
      schemaOf(name as SchemaName),
    ),
  ]),
) as Record<SchemaName, ReturnType<Ajv2020['compile']>>

/** What is wrong with the document by the schema; empty when nothing is. */
function faults(name: SchemaName, document: unknown): string[] {
  return check[name](document)
    ? []
    : check[name].errors!.map((error) => `${error.instancePath} ${error.message}`)
}

test.each(examples)('%s names its schema, and fits it', (path) => {
  const text = readFileSync(join(root, path), 'utf8')
  const [, named] = /^# yaml-language-server: \$schema=(\S+)\n/.exec(text) ?? []
  const schema = resolve(root, dirname(path), named ?? '')
  const name = Object.keys(schemaNames).find(
    (one) => schema === join(root, 'docs', 'schemas', `${one}.schema.json`),
  )
  expect(name, `the first line of ${path} names the schema in docs/schemas`).toBeDefined()
  for (const document of parseAllDocuments(text))
    expect(faults(name as SchemaName, document.toJS())).toEqual([])
})

test('the example of several things is one that apply reads', () => {
  expect(readManifests(join(root, 'examples', 'service', 'things.yml')).length).toBeGreaterThan(3)
})

const training = parseAllDocuments(readFileSync(join(root, 'examples/whale/job.yml'), 'utf8'))[0]!.toJS()
const samples = { ...training, data: { train: 'chats.jsonl', columns: { prompt: 'Q' }, too_long: 'cut' } }
const dialled = { data: { text: 'a.txt' }, params: '5M', model: { architecture: 'llama' } }
const without = (field: string) =>
  Object.fromEntries(Object.entries(training).filter(([name]) => name !== field))

test.each([
  ['a job', training, true],
  ['a job of records', samples, true],
  ['a job with one dial', dialled, true],
  ['a name with capitals', { ...training, name: 'Whale' }, true],
  ['a part for the service', { ...training, job: { priority: 90, time_limit: '2h' } }, true],
  ['a job without steps', without('steps'), false],
  ['a model without width', { ...training, model: { architecture: 'llama', layers: 2, heads: 2 } }, false],
  ['an unknown field', { ...training, stepz: 4 }, false],
  ['an unknown field inside', { ...training, optimizer: { learning_rate: 1, momentum: 2 } }, false],
  ['a number as text', { ...training, batch: '8' }, false],
  ['neither text nor records', { ...training, data: {} }, false],
  ['a word that is none of those', { ...training, precision: 'fp8' }, false],
])('the schema of training says of %s what the trainer says', (_, file, right) => {
  expect(faults('training', file).length === 0).toBe(right)
  const { job: __, ...own } = file as Record<string, unknown>
  const parse = () => {
    try {
      parseTrainingJob(own, root)
    } catch (error) {
      // The dial looks for its data.
      if (!/a\.txt/.test(String(error))) throw error
    }
  }
  if (right) expect(parse).not.toThrow()
  else expect(parse).toThrow()
})

test.each([
  [{ run: 'python3 train.py --rate 2', grace: '10s', env: { A: 1 } }, true],
  [{ run: ['a'], processes: 2, out: 'x' }, true],
  [{ processes: 2 }, false],
  [{ run: ['a'], grace: 'soon' }, false],
  [{ run: ['a'], steps: 3 }, false],
])('the schema of commands says of %j what the service says', (file, right) => {
  expect(faults('command', file).length === 0).toBe(right)
  if (right) expect(() => parseRunJob(file)).not.toThrow()
  else expect(() => parseRunJob(file)).toThrow()
})

test.each([
  [{ version: { model: 'a' }, scaling: { min: 0, max: 3 } }, true],
  [{ scaling: { max: 3 } }, true],
  [{ scaling: { maximum: 3 } }, false],
  [{ version: { adapters: {} } }, false],
  [{ version: { model: 'a', engine: { colour: 1 } } }, false],
])('the schema of deployments says of %j what the service says', (file, right) => {
  expect(faults('deployment', file).length === 0).toBe(right)
  expect(deploymentUpdate.safeParse(file).success).toBe(right)
})

test.each([
  [{ kind: 'quota', name: 'cpu', devices: 4 }, true],
  [{ kind: 'job', name: 'a', spec: { run: ['a'] } }, true],
  [{ kind: 'deployment', name: 'a', version: { model: 'm' } }, true],
  [{ kind: 'boat', name: 'a' }, false],
  [{ kind: 'quota', name: 'cpu', slots: 4 }, false],
  [{ name: 'cpu', devices: 4 }, false],
])('the schema of apply says of %j what apply says', (document, right) => {
  expect(faults('apply', document).length === 0).toBe(right)
  expect(manifest.safeParse(document).success).toBe(right)
})

test('the schema of apply looks into the job that a document holds', () => {
  expect(faults('apply', { kind: 'job', name: 'a', spec: { run: ['a'], colour: 1 } })).not.toEqual([])
  expect(faults('apply', { kind: 'template', name: 'a', spec: without('batch') })).not.toEqual([])
})

test('the command prints each schema, lists them, and refuses one that is none', async () => {
  expect((await ropeway(['schema'])).out.trim().split('\n')).toHaveLength(Object.keys(schemaNames).length)
  for (const name of Object.keys(schemaNames) as SchemaName[])
    expect(JSON.parse((await ropeway(['schema', name])).out)).toEqual(schemaOf(name))
  expect((await ropeway(['schema', 'boat'])).code).toBe(3)
})
