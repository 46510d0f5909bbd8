/** Credentials of a project in jobs: W&B's key in a fine-tuning job, and any of them in a job that names it. */
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ropeway } from '../cli/command-line.ts'
import { chats, type TuningService, tuningService, upload } from './harness.ts'

const key = 'wandb-key-0123456789abcdef0123456789abcdef'
const path = process.env.PATH
let service: TuningService
beforeAll(async () => {
  service = await tuningService()
})
afterAll(async () => {
  process.env.PATH = path
  await service[Symbol.asyncDispose]()
})

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex')

/** Files below the folder that hold the text: of everything that the service wrote. */
function filesWith(folder: string, text: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
    .filter((file) => readFileSync(file).includes(text))
}

/** A program `wandb` that says what it was given, and prints the key as careless programs do. */
function plantWandb(folder: string): string {
  const proof = join(folder, 'proof.txt')
  mkdirSync(join(folder, 'programs'))
  const program = `#!${process.execPath}
const { createHash } = require('node:crypto')
const { WANDB_API_KEY: key = '', WANDB_BASE_URL: url } = process.env
console.log('logging in with ' + key)
const given = [createHash('sha256').update(key).digest('hex'), url, ...process.argv.slice(2)]
require('node:fs').writeFileSync(${JSON.stringify(proof)}, JSON.stringify(given))
`
  writeFileSync(join(folder, 'programs', 'wandb'), program, { mode: 0o755 })
  process.env.PATH = `${join(folder, 'programs')}${delimiter}${path}`
  return proof
}

test("a fine-tuning job hands its run to W&B with the project's key, which stands nowhere", async () => {
  const { client, bench } = service
  const proof = plantWandb(bench.folder)
  const training_file = await upload(client, chats(8))
  const create = () =>
    client.fineTuning.jobs.create({
      ...{ model: 'tiny', training_file },
      method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 1, batch_size: 4 } } },
      integrations: [{ type: 'wandb', wandb: { project: 'ropes', name: 'first', tags: ['a', 'b'] } }],
    })
  await expect(create()).rejects.toMatchObject({
    status: 404,
    message: expect.stringMatching(/credential wandb/),
  })
  const values = ['--kind', 'wandb', '--set', 'host=http://127.0.0.1:9', '--secret', 'api_key']
  expect((await ropeway(['credential', 'create', 'wandb', ...values], key)).code).toBe(0)
  const { id, integrations } = await create()
  expect(integrations).toMatchObject([{ type: 'wandb', wandb: { project: 'ropes', name: 'first' } }])
  const over = async () => (await client.fineTuning.jobs.retrieve(id)).status
  await expect.poll(over, { interval: 200 }).toBe('succeeded')
  const [hash, url, verb, folder] = JSON.parse(readFileSync(proof, 'utf8')) as string[]
  expect([hash, url, verb]).toEqual([hashOf(key), 'http://127.0.0.1:9', 'sync'])
  const run = readFileSync(join(folder!, readdirSync(folder!).find((name) => name.endsWith('.wandb'))!))
  for (const text of ['ropes', 'first', 'loss']) expect(run.includes(text)).toBe(true)
  expect(readFileSync(join(folder!, 'sync.log'), 'utf8')).toBe('logging in with [key]\n')
  const job = await ropeway(['job', 'view', id.replace('ftjob-', 'job_'), '--json'])
  expect(job.json[0].placement.credentials).toEqual(['wandb'])
  expect(job.out).not.toContain(key)
  expect(filesWith(bench.folder, key)).toEqual([])
  const said = (await client.fineTuning.jobs.listEvents(id, { limit: 100 })).data.map(
    ({ message }) => message,
  )
  expect(said).toContain('Handing the run to wandb sync.')
})

test('any job finds the credentials that it names, and one that names none is refused or finds nothing', async () => {
  const { bench } = service
  const credential = async (name: string, kind: string, values: object) =>
    await ropeway(['credential', 'create', name, '--kind', kind], JSON.stringify(values))
  const bucket = { access_key_id: 'AK', secret_access_key: 'planted-secret-key', region: 'here' }
  expect((await credential('bucket', 's3', bucket)).code).toBe(0)
  const login = { registry: 'r', username: 'u', password: 'p' }
  expect((await credential('images', 'docker', login)).code).toBe(0)
  mkdirSync(join(bench.folder, 'env'))
  const file = join(bench.folder, 'env', 'job.yml')
  const shown =
    'node -e "console.log(Object.keys(process.env).filter((name) => /AWS|HF_/.test(name)).sort().join())"'
  const run = async (credentials: string[]) => {
    writeFileSync(
      file,
      JSON.stringify({
        name: `env-${credentials[0] ?? 'none'}`,
        run: ['sh', '-c', shown],
        job: { credentials },
      }),
    )
    return await ropeway(['job', 'run', '-f', file])
  }
  const given = await run(['bucket'])
  expect(given.code).toBe(0)
  expect((await ropeway(['logs', 'env-bucket'])).out).toContain(
    'AWS_ACCESS_KEY_ID,AWS_REGION,AWS_SECRET_ACCESS_KEY',
  )
  expect(filesWith(bench.folder, 'planted-secret-key')).toEqual([])
  expect((await run([])).code).toBe(0)
  expect((await ropeway(['logs', 'env-none'])).out).not.toContain('AWS_')
  const missing = await run(['nobody'])
  expect([missing.code, missing.err]).toEqual([3, expect.stringMatching(/no credential nobody/)])
  const useless = await run(['images'])
  expect([useless.code, useless.err]).toEqual([2, expect.stringMatching(/is for docker, which jobs find/)])
})
