/** Templates in the page: kept from a job file, run, changed, forgotten. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { listJobs } from '../../src/api/control/job-endpoints.ts'
import { saveTemplate, viewTemplate } from '../../src/api/control/job-templates.ts'
import { ropeway } from '../cli/command-line.ts'
import { describeAtThePage } from './at-the-page.ts'

const jobFile = `name: nightly
model: {architecture: llama, layers: 1, width: 32, heads: 2}
data: {text: [dataset:sea/sea.txt], validation: 0.1}
tokenizer: characters
context: 32
batch: 4
steps: 6
optimizer: {learning_rate: 0.003}
`

describeAtThePage(
  'templates in the page',
  {
    prepare: async (bench) => {
      for (const [folder, file, text] of [
        ['sea', 'sea.txt', 'the sea was calm; '.repeat(100)],
        ['tool', 'job.yml', 'name: tool\nrun: [node, tool.js]\n'],
        ['tool', 'tool.js', 'console.log(1)'],
      ] as const) {
        mkdirSync(`${bench.folder}/${folder}`, { recursive: true })
        writeFileSync(`${bench.folder}/${folder}/${file}`, text)
      }
      for (const line of [
        ['dataset', 'upload', 'sea', `${bench.folder}/sea`],
        ['template', 'save', 'tool', '-f', `${bench.folder}/tool/job.yml`],
      ]) {
        const ran = await ropeway(line)
        expect(ran.code, ran.err).toBe(0)
      }
    },
    links: ['Jobs'],
  },
  (at) => {
    const project = 'default'
    const kept = async (template: string) =>
      await at.bench.service.owner.call(viewTemplate, { params: { project, template } })

    test('a job file is kept under a name, unless no job could be made of it', async () => {
      await at.page.getByRole('link', { name: 'New job' }).click()
      await at.page.getByLabel('Job file').fill(jobFile.replace(/optimizer.*\n/, ''))
      await at.page.getByLabel('Template').fill('nightly')
      await at.page.getByRole('button', { name: 'Keep' }).click()
      await at.page.getByText('The field optimizer is missing.').waitFor()
      await at.page.getByLabel('Job file').fill(jobFile)
      await at.page.getByRole('button', { name: 'Keep' }).click()
      await at.page.getByRole('row', { name: 'nightly train' }).waitFor()
      expect((await kept('nightly')).file).toMatchObject({ name: 'nightly', steps: 6 })
    })

    test('one is changed and kept under its name', async () => {
      await at.page.getByRole('row', { name: 'nightly' }).getByRole('link', { name: 'Run or change' }).click()
      const text = await at.page.getByLabel('Job file').inputValue()
      expect(text).toContain('steps: 6')
      await at.page.getByLabel('Job file').fill(text.replace('steps: 6', 'steps: 9'))
      await expect.poll(() => at.page.getByLabel('Template').inputValue()).toBe('nightly')
      await at.page.getByRole('button', { name: 'Keep' }).click()
      await at.page.getByRole('row', { name: 'nightly train' }).waitFor()
      expect(await kept('nightly')).toMatchObject({ version: 2, file: { name: 'nightly', steps: 9 } })
      // What the page had before is not what it begins with.
      await at.page.getByRole('row', { name: 'nightly' }).getByRole('link', { name: 'Run or change' }).click()
      await expect.poll(() => at.page.getByLabel('Job file').inputValue()).toContain('steps: 9')
    })

    test('what somebody else keeps meanwhile is not written over', async () => {
      const params = { project, template: 'nightly' }
      const { file } = await kept('nightly')
      const body = { file: { ...file, steps: 12 } }
      await at.bench.service.owner.call(saveTemplate, { params, body })
      await at.page.getByRole('button', { name: 'Keep' }).click()
      await at.page.getByText('Somebody changed the template nightly meanwhile').waitFor()
      expect((await kept('nightly')).file).toMatchObject({ steps: 12 })
    })

    test('one that came with a folder runs with it', async () => {
      await at.page.getByRole('link', { name: 'Jobs', exact: true }).click()
      await at.page.getByRole('link', { name: 'Templates' }).click()
      const row = at.page.getByRole('row', { name: 'tool run a folder' })
      await row.getByRole('link', { name: 'Run or change' }).click()
      await at.page.getByText('The folder that the template was saved with goes along.').waitFor()
      await at.page.getByRole('button', { name: 'Run it' }).click()
      await at.page.getByRole('heading', { name: 'tool' }).waitFor()
      const { items } = await at.bench.service.owner.call(listJobs, { params: { project } })
      const { workspace, file } = await kept('tool')
      expect(workspace).toMatch(/^ws_/)
      expect(items).toMatchObject([{ name: 'tool', kind: 'run', file, workspace }])
    })

    test('one is forgotten when that was confirmed', async () => {
      await at.page.getByRole('link', { name: 'Jobs', exact: true }).click()
      await at.page.getByRole('link', { name: 'Templates' }).click()
      const row = at.page.getByRole('row', { name: 'nightly' })
      await row.getByRole('button', { name: 'Delete' }).click()
      await at.page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
      await row.waitFor({ state: 'detached' })
      const listed = await ropeway(['template', 'list', '--json'])
      expect(listed.json.map(({ name }) => name)).toEqual(['tool'])
      expect(at.complaints.filter((text) => !/status of 40[019]/.test(text))).toEqual([])
    })
  },
)
