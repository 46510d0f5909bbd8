/** Templates in the page: kept from a job file, run, changed, forgotten. */
import { mkdirSync, writeFileSync } from 'node:fs'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listJobs } from '../../src/api/control/job-endpoints.ts'
import { viewTemplate } from '../../src/api/control/job-templates.ts'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'
import { browserPath, openBrowser, signedInPage } from './browser.ts'

const path = browserPath()
const jobFile = `name: nightly
model: {architecture: llama, layers: 1, width: 32, heads: 2}
data: {text: [dataset:sea/sea.txt], validation: 0.1}
tokenizer: characters
context: 32
batch: 4
steps: 6
optimizer: {learning_rate: 0.003}
`

describe.skipIf(path === undefined)('templates in the page (needs chromium)', () => {
  let bench: Workbench
  let browser: Browser
  let page: Page
  let complaints: string[]
  const project = 'default'
  const kept = async (template: string) =>
    await bench.service.owner.call(viewTemplate, { params: { project, template } })
  beforeAll(async () => {
    bench = await workbench()
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
    browser = await openBrowser(path!)
    ;({ page, complaints } = await signedInPage(browser))
    await page.getByRole('link', { name: 'Jobs', exact: true }).click()
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await bench?.[Symbol.asyncDispose]()
  })

  test('a job file is kept under a name, unless no job could be made of it', async () => {
    await page.getByRole('link', { name: 'New job' }).click()
    await page.getByLabel('Job file').fill(jobFile.replace(/optimizer.*\n/, ''))
    await page.getByLabel('Template').fill('nightly')
    await page.getByRole('button', { name: 'Keep' }).click()
    await page.getByText('The field optimizer is missing.').waitFor()
    await page.getByLabel('Job file').fill(jobFile)
    await page.getByRole('button', { name: 'Keep' }).click()
    await page.getByRole('row', { name: 'nightly train' }).waitFor()
    expect((await kept('nightly')).file).toMatchObject({ name: 'nightly', steps: 6 })
  })

  test('one is changed and kept under its name', async () => {
    await page.getByRole('row', { name: 'nightly' }).getByRole('link', { name: 'Run or change' }).click()
    const text = await page.getByLabel('Job file').inputValue()
    expect(text).toContain('steps: 6')
    await page.getByLabel('Job file').fill(text.replace('steps: 6', 'steps: 9'))
    expect(await page.getByLabel('Template').inputValue()).toBe('nightly')
    await page.getByRole('button', { name: 'Keep' }).click()
    await page.getByRole('row', { name: 'nightly train' }).waitFor()
    expect(await kept('nightly')).toMatchObject({ version: 2, file: { name: 'nightly', steps: 9 } })
    // What the page had before is not what it begins with.
    await page.getByRole('row', { name: 'nightly' }).getByRole('link', { name: 'Run or change' }).click()
    expect(await page.getByLabel('Job file').inputValue()).toContain('steps: 9')
  })

  test('one that came with a folder runs with it', async () => {
    await page.getByRole('link', { name: 'Jobs', exact: true }).click()
    await page.getByRole('link', { name: 'Templates' }).click()
    const row = page.getByRole('row', { name: 'tool run a folder' })
    await row.getByRole('link', { name: 'Run or change' }).click()
    await page.getByText('The folder that the template was saved with goes along.').waitFor()
    await page.getByRole('button', { name: 'Run it' }).click()
    await page.getByRole('heading', { name: 'tool' }).waitFor()
    const { items } = await bench.service.owner.call(listJobs, { params: { project } })
    const { workspace, file } = await kept('tool')
    expect(workspace).toMatch(/^ws_/)
    expect(items).toMatchObject([{ name: 'tool', kind: 'run', file, workspace }])
  })

  test('one is forgotten when that was confirmed', async () => {
    await page.getByRole('link', { name: 'Jobs', exact: true }).click()
    await page.getByRole('link', { name: 'Templates' }).click()
    const row = page.getByRole('row', { name: 'nightly' })
    await row.getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
    await row.waitFor({ state: 'detached' })
    const listed = await ropeway(['template', 'list', '--json'])
    expect(listed.json.map(({ name }) => name)).toEqual(['tool'])
    expect(complaints.filter((text) => !/status of 40[01]/.test(text))).toEqual([])
  })
})
