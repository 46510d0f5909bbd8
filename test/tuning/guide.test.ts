/** What docs/fine-tuning.md shows, run as it stands there: with curl, Python and TypeScript. */
import { execFile, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { chats, type TuningService, tuningService } from './harness.ts'

const run = promisify(execFile)
const root = join(import.meta.dirname, '..', '..')
const guide = readFileSync(join(root, 'docs', 'fine-tuning.md'), 'utf8')
/** Where the client for Python is; a developer may name another interpreter that has it. */
const python = process.env.ROPEWAY_PYTHON ?? 'python3'
const hasClient = spawnSync(python, ['-c', 'import openai']).status === 0

let service: TuningService
let folder: string
beforeAll(async () => {
  service = await tuningService()
  folder = join(service.bench.folder, 'guide')
  mkdirSync(folder)
  writeFileSync(join(folder, 'chats.jsonl'), chats(8))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
})
afterAll(() => service[Symbol.asyncDispose](), 60_000)

/** The block in this language, for the service of this test. */
function block(language: string): string {
  const [, code] = new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'm').exec(guide) ?? []
  expect(code).toBeDefined()
  const { url } = service.bench.service
  return code!
    .replaceAll('http://127.0.0.1:8600', url)
    .replaceAll('rwk_...', service.client.apiKey!)
    .replaceAll('starter', 'tiny')
}

/** A program's output, which names what it made. */
async function output(program: string, args: readonly string[]): Promise<string> {
  const { stdout } = await run(program, [...args], { cwd: folder, timeout: 90_000 })
  return stdout
}

function expectWhole(said: string): void {
  expect(said).toContain('The job has successfully completed')
  expect(said).toMatch(/Created fine-tuning job: ftjob-/)
}

test('the commands with curl do what they say, one after the other', async () => {
  const commands = block('text')
    .trim()
    .split(/\n(?! )/)
  const [exports, ...calls] = commands
  let known: Record<string, string> = { 'file-...': '', 'ftjob-...': '', 'ft:tiny:main:poems:...': '' }
  const answers = []
  for (const call of calls) {
    const command = Object.entries(known).reduce(
      (text, [shown, real]) => text.replaceAll(shown, real || shown),
      call,
    )
    const said = await output('bash', [
      '-c',
      `${exports}\n${command.replace('curl ', 'curl -sS --fail-with-body ')}`,
    ])
    answers.push(said)
    const made = (pattern: RegExp) => pattern.exec(said)?.[0]
    known = {
      'file-...': known['file-...'] || made(/file-[0-9a-z]{20,}/) || '',
      'ftjob-...': known['ftjob-...'] || made(/ftjob-[0-9a-z]{20,}/) || '',
      'ft:tiny:main:poems:...':
        known['ft:tiny:main:poems:...'] || made(/ft:tiny:main:poems:[0-9a-z]{10}/) || '',
    }
  }
  expect(answers[0]).toContain('"fine_tunable":true')
  expectWhole(answers[3]!)
  expect(answers.join('')).toContain(':ckpt-step-')
  expect(JSON.parse(answers.at(-1)!)).toMatchObject({ object: 'chat.completion' })
})

test.skipIf(!hasClient)("the program with OpenAI's client for Python runs to its answer", async () => {
  writeFileSync(join(folder, 'tune.py'), block('python'))
  expectWhole(await output(python, ['tune.py']))
})

test("the program with OpenAI's client for TypeScript runs to its answer", async () => {
  writeFileSync(join(folder, 'tune.mts'), block('typescript'))
  const said = await output(process.execPath, ['--import', import.meta.resolve('tsx'), 'tune.mts'])
  expectWhole(said)
  expect(said).toMatch(/ft:tiny:main:poems:[0-9a-z]{10}:ckpt-step-\d+/)
})
