/** The page of the service as a person uses it: a real browser, a real service, a real model. */
import { mkdirSync, writeFileSync } from 'node:fs'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { loopStarters } from '../../src/cli/service-parts.ts'
import type { Loop } from '../../src/control/service/loop.ts'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'
import { browserPath, complaintsOf, openBrowser } from './browser.ts'

const path = browserPath()
const jobFile = `name: sailor
model: {architecture: llama, layers: 1, width: 32, heads: 2}
data: {text: [dataset:sea/sea.txt], validation: 0.1}
tokenizer: characters
context: 32
batch: 4
steps: 6
optimizer: {learning_rate: 0.003}
evaluate: {every: 3}
checkpoint: {every: 6}
`
const words = 'the sea was calm and the wind was low and nobody said a word; '.repeat(100)

describe.skipIf(path === undefined)('the page (needs chromium)', () => {
  let bench: Workbench
  let browser: Browser
  let page: Page
  let complaints: string[]
  const loops: Loop[] = []
  beforeAll(async () => {
    process.env.ROPEWAY_THREADS = '1'
    bench = await workbench(systemClock, { leavesNothing: true })
    for (const start of loopStarters) loops.push(await start(bench.parts))
    const texts = `${bench.folder}/texts`
    mkdirSync(texts)
    writeFileSync(`${texts}/sea.txt`, words)
    const uploaded = await ropeway(['dataset', 'upload', 'sea', texts])
    expect(uploaded.code, uploaded.err).toBe(0)
    browser = await openBrowser(path!)
    page = await browser.newPage()
    page.setDefaultTimeout(60_000)
    complaints = complaintsOf(page)
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    for (const loop of loops.toReversed()) await loop.stop()
    await bench?.[Symbol.asyncDispose]()
  })

  test('who is not signed in is asked to, and an address of `ropeway console` signs in once', async () => {
    await page.goto(`${bench.service.url}/projects/default/jobs`)
    await page.getByRole('button', { name: 'Sign in' }).waitFor()
    const printed = await ropeway(['console', '-q'])
    const address = printed.out.trim()
    await page.goto(address)
    await page.getByRole('heading', { name: 'default' }).waitFor()
    expect(page.url()).toBe(`${bench.service.url}/projects/default`)
    const other = await (await browser.newContext()).newPage()
    await other.goto(address)
    await other.getByText('was used, or is too old').waitFor()
    await other.context().close()
    // Who is signed in stays who they are, unless they say so.
    await page.goto((await ropeway(['console', '-q'])).out.trim())
    await page.getByText('You are signed in as owner@localhost').waitFor()
    await page.getByRole('button', { name: 'Stay who you are' }).click()
    await page.getByRole('heading', { name: 'default' }).waitFor()
  })

  test('a job file becomes a job, whose curves, log and checkpoint show', async () => {
    await page.getByRole('link', { name: 'Jobs', exact: true }).click()
    await page.getByRole('link', { name: 'New job' }).click()
    await page.getByLabel('Job file').fill('model: {architecture: none')
    await page.getByRole('button', { name: 'Run it' }).click()
    await page.getByText('This is no YAML').waitFor()
    await page.getByLabel('Job file').fill(jobFile.replace(/optimizer.*\n/, ''))
    await page.getByRole('button', { name: 'Run it' }).click()
    await page.getByText('The field optimizer is missing.').waitFor()
    await page.getByLabel('Job file').fill(jobFile)
    await page.getByRole('button', { name: 'Run it' }).click()
    await page.getByRole('heading', { name: 'sailor' }).waitFor()
    await page.locator('.heading .state', { hasText: 'success' }).waitFor()
    await page.getByText('6 of 6').waitFor()
    await page.locator('figure', { hasText: 'Loss' }).locator('canvas').first().waitFor()
    await page.getByRole('tab', { name: 'Log' }).click()
    await page.locator('.log div').first().waitFor()
    await page.getByRole('tab', { name: 'Checkpoints' }).click()
    await page.getByRole('row', { name: 'sailor-6' }).getByRole('link', { name: 'Deploy' }).click()
  })

  test('its checkpoint is deployed, and answers in the page though only keys may ask', async () => {
    await page.getByLabel('Name').fill('tales')
    await page.getByRole('button', { name: 'Deploy', exact: true }).click()
    await page.locator('.heading .state', { hasText: 'ready' }).waitFor()
    await page.getByLabel('Prompt').fill('the sea')
    // Greedy: nothing that a dice could end early.
    await page.getByLabel('Temperature').fill('0')
    await page.getByLabel('Tokens at most').fill('5')
    await page.getByRole('button', { name: 'Go on' }).click()
    await page.getByText('tokens a second (5)').waitFor()
    const answer = await page.locator('output.answer').textContent()
    expect(answer).toMatch(/^the sea.{5}$/s)
    const keys = await ropeway(['key', 'list', '--json'])
    expect(keys.json.map(({ scopes }) => scopes)).toContainEqual(['deployment:use'])
  })

  test('what the answer took is in the usage of that day, by the key of the page', async () => {
    const row = page.getByRole('row', { name: /^page \d+ tales 1 \d+ 0 5/ })
    await page.getByRole('link', { name: 'Usage', exact: true }).click()
    await page.getByRole('heading', { name: 'Usage' }).waitFor()
    // Asking is what brings it into the database; the next look shows it.
    await expect
      .poll(
        async () => {
          await page.reload()
          await page.getByRole('heading', { name: 'By key and model' }).waitFor()
          return await row.or(page.getByText('Nobody asked')).first().textContent()
        },
        { timeout: 30_000, interval: 500 },
      )
      .toContain('tales')
    await page.getByRole('img', { name: /^Tokens by day/ }).waitFor()
  })

  test('a checkpoint of the job becomes a model, whose lineage leads back to the data', async () => {
    await page.getByRole('link', { name: 'Jobs', exact: true }).click()
    await page.getByRole('link', { name: 'sailor' }).click()
    await page.getByRole('tab', { name: 'Checkpoints' }).click()
    await page.getByRole('row', { name: 'sailor-6' }).getByRole('link', { name: 'Promote' }).click()
    await page.getByLabel('Model, new').fill('sailor')
    await page.getByRole('button', { name: 'Promote' }).click()
    for (const made of ['sea@1', 'sailor-6', 'sailor@1'])
      await page.locator('.lineage li', { hasText: made }).first().waitFor()
    await page.getByRole('row', { name: /^1 .*sailor-6/ }).waitFor()
    // What is made of it later shows too; it serves nobody yet.
    const idle = await ropeway(['deployment', 'create', 'idle', '--model', 'sailor@1', '--min', '0'])
    expect(idle.code, idle.err).toBe(0)
    await page.reload()
    await page.locator('.lineage').getByRole('link', { name: 'idle' }).waitFor()
    await page.locator('.lineage').getByRole('link', { name: 'sea@1' }).click()
    await page.getByRole('heading', { name: 'sea', exact: true }).waitFor()
  })

  test('what is deleted is asked about first, and signing out ends the session', async () => {
    await page.getByRole('link', { name: 'Deployments', exact: true }).click()
    await page.getByRole('link', { name: 'tales' }).click()
    await page.getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('alertdialog').getByRole('button', { name: 'Cancel' }).click()
    await page.getByRole('link', { name: 'Overview' }).click()
    await page.getByRole('link', { name: 'tales' }).waitFor()
    // The browser tells of what was refused too: before the signing in, and the job file that lacks a field.
    expect(complaints.filter((text) => !/status of 40[01]/.test(text))).toEqual([])
    await page.getByRole('button', { name: 'Sign out' }).click()
    await page.getByRole('button', { name: 'Sign in' }).waitFor()
    const asked = await page.request.get(`${bench.service.url}/api/v1/whoami`)
    expect(asked.status()).toBe(401)
  })
})

describe('where the page lies', () => {
  test('its files come with a policy that lets nothing in from elsewhere, and no path leads out of them', async () => {
    await using bench = await workbench()
    const { url } = bench.service
    const index = await fetch(`${url}/projects/any/jobs/thing`)
    expect(index.headers.get('content-security-policy')).toContain("default-src 'none'; script-src 'self'")
    const html = await index.text()
    const [script] = /\/assets\/[\w.-]+\.js/.exec(html)!
    const asset = await fetch(url + script)
    expect([asset.status, asset.headers.get('content-type')]).toEqual([200, 'text/javascript; charset=utf-8'])
    for (const away of ['/assets/..%2Findex.html', '/assets/nothing.js', '/elsewhere', '/api/v1/nothing']) {
      const answer = await fetch(url + away)
      expect([away, answer.status, answer.headers.get('content-type')]).toEqual([
        away,
        404,
        'application/json; charset=utf-8',
      ])
    }
  })
})
