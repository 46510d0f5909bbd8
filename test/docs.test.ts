import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Command, CommanderError } from 'commander'
import { afterAll, expect, test } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { generatedFiles } from '../scripts/generated.ts'
import { parseRunJob } from '../src/api/control/job-file.ts'
import { jobPlacement } from '../src/api/control/jobs.ts'
import { manifest } from '../src/api/control/manifest.ts'
import { oidcSettingsFrom } from '../src/cli/oidc-settings.ts'
import { buildProgram } from '../src/cli/program.ts'
import { contractEvent } from '../src/control/jobs/contract-events.ts'
import { parseTrainingJob } from '../src/train/job.ts'
import { type DocumentedCommand, documentedBlocks, documentedCommands } from './docs/documented.ts'

const root = join(import.meta.dirname, '..')
const files = await generatedFiles()

test.each([...files])('%s is what the sources make of it (npm run generate)', (path, text) => {
  expect(existsSync(join(root, path))).toBe(true)
  expect(readFileSync(join(root, path), 'utf8')).toBe(text)
})

test('the references name what there is, and hold nothing of the machine that made them', () => {
  const [cli, api] = [files.get('docs/reference/cli.md')!, files.get('docs/reference/api.md')!]
  for (const heading of ['### ropeway job logs', '### ropeway cluster create', '## ropeway apply'])
    expect(cli).toContain(`${heading}\n`)
  for (const name of ['jobs.logs', 'deployments.metrics', 'clusters.delete', 'prices.set'])
    expect(api).toContain(`### ${name}\n`)
  expect(api).toContain('`GET /api/v1/projects/{project}/jobs` (job:view)')
  for (const text of [cli, api]) expect(text).not.toMatch(new RegExp(`${root}|/tmp/|/home/`))
})

test.each(
  documentedCommands().map((command) => [`${command.place}: ropeway ${command.words.join(' ')}`, command]),
)('%s is a command line that the program takes', async (_, command) => {
  await parsed(command as DocumentedCommand)
})

/** Goes through the parser of the real program; what the command would do is left out. */
async function parsed({ words, alsoOptions, inText }: DocumentedCommand): Promise<void> {
  const program = buildProgram()
  let reached: Command | undefined
  const silence = (command: Command) => {
    command.configureOutput({ writeErr: () => {}, writeOut: () => {} })
    if ('_actionHandler' in command && command._actionHandler !== null)
      command.action((...given: unknown[]) => {
        reached = given.at(-1) as Command
      })
    for (const inner of command.commands) silence(inner)
  }
  silence(program)
  try {
    await program.parseAsync(words, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    const allowed = ['commander.helpDisplayed', 'commander.help', ...(inText ? textMayLack : [])]
    if (!allowed.includes(error.code)) throw error
  }
  for (const option of alsoOptions) expect(reached?.options.map(({ long }) => long)).toContain(option)
}

/** Running text says what a command is for, and names its arguments where they matter. */
const textMayLack = ['commander.missingArgument', 'commander.missingMandatoryOptionValue']

test.each(documentedBlocks('yaml').map(({ place, code }) => [place, code]))(
  'the YAML of %s is what the reader of such files takes',
  (_, code) => {
    for (const document of parseAllDocuments(code!)) {
      expect(document.errors).toEqual([])
      const fields = document.toJS() as Record<string, unknown>
      if ('kind' in fields) manifest.parse(fields)
      else if ('run' in fields) parseRunJob(fields)
      else if ('issuer' in fields) oidcSettingsFrom(fileOf(code!))
      else parseTrainingJob(wholeJob(fields), beside)
    }
  },
)

/** What the files that documents show name beside themselves. */
const beside = mkdtempSync(join(tmpdir(), 'ropeway-docs-'))
afterAll(() => rmSync(beside, { recursive: true }))
writeFileSync(join(beside, 'oidc-secret'), 'a secret')
writeFileSync(join(beside, 'book.txt'), 'Call me Ishmael. '.repeat(100))

function fileOf(code: string): string {
  writeFileSync(join(beside, 'oidc.yml'), code)
  return join(beside, 'oidc.yml')
}

/** A part of a training job is shown without what it has nothing to say about. */
function wholeJob({ job, ...part }: Record<string, unknown>): Record<string, unknown> {
  if (job !== undefined) jobPlacement.parse(job)
  const whole = parse(readFileSync(join(root, 'examples/whale/job.yml'), 'utf8')) as Record<string, unknown>
  const adapts = 'publish' in part
  return { ...whole, ...(adapts && { model: { from: 'base' }, method: { lora: {} } }), ...part }
}

test('the events that the documents show are those of the contract', () => {
  const lines = documentedBlocks('json').flatMap(({ code }) => code.trim().split('\n'))
  expect(lines.length).toBeGreaterThan(5)
  for (const line of lines) contractEvent.parse(JSON.parse(line))
})
