/** Checkpoints in the page: linked, deleted and restored, and the rules about those of jobs. */
import { mkdirSync, writeFileSync } from 'node:fs'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'
import { addMember } from '../service/running.ts'
import { browserPath, openBrowser, signedInPage, signIn } from './browser.ts'

const path = browserPath()

describe.skipIf(path === undefined)('checkpoints in the page (needs chromium)', () => {
  let bench: Workbench
  let browser: Browser
  let page: Page
  let complaints: string[]
  beforeAll(async () => {
    bench = await workbench()
    mkdirSync(`${bench.folder}/weights`)
    writeFileSync(`${bench.folder}/weights/model.gguf`, 'weights')
    browser = await openBrowser(path!)
    ;({ page, complaints } = await signedInPage(browser))
    await page.getByRole('link', { name: 'Models', exact: true }).click()
    await page.getByRole('link', { name: 'Checkpoints', exact: true }).click()
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await bench?.[Symbol.asyncDispose]()
  })

  test('a folder is linked as a checkpoint, which leads to a deployment', async () => {
    await page.getByText('No checkpoints yet.').waitFor()
    await page.getByText('Link a bucket or a folder').click()
    await page.getByLabel('Name of the checkpoint').fill('base')
    await page.getByLabel('Where it lies').fill(`file://${bench.folder}/weights`)
    await page.getByRole('button', { name: 'Link', exact: true }).click()
    const row = page.getByRole('row', { name: /^base file:.*weights gguf 7 B/ })
    await row.getByRole('link', { name: 'Deploy' }).click()
    const chosen = page.getByLabel('Model or checkpoint').locator('option:checked')
    await expect.poll(() => chosen.textContent()).toBe('base')
    await page.goBack()
  })

  test('one is deleted when that was confirmed, and restored', async () => {
    const names = async () => (await ropeway(['checkpoint', 'list', '--json'])).json.map(({ name }) => name)
    await page.getByRole('button', { name: 'Delete' }).click()
    await page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
    await page.getByText('Deleted, and there for a day').waitFor()
    expect(await names()).toEqual([])
    await page.getByRole('button', { name: 'Restore' }).click()
    await page.getByText('Deleted, and there for a day').waitFor({ state: 'detached' })
    expect(await names()).toEqual(['base'])
  })

  test('a rule is set, set otherwise, and taken away', async () => {
    const rule = async () => (await ropeway(['retention', 'list', '--json'])).json[0]?.rule
    await page.getByText('No rule: all of them stay.').waitFor()
    await page.getByLabel('Rule, new').fill('nightly')
    await page.getByLabel('Of jobs named').fill('nightly-*')
    await page.getByLabel('Keep the newest').fill('3')
    await page.getByLabel('Steps that this divides').fill('1000')
    await page.getByLabel('The best by metric').fill('val_loss')
    await page.getByRole('button', { name: 'Set the rule' }).click()
    const kept = 'the newest 3, steps that 1,000 divides, the 1 with the least val_loss'
    await page.getByRole('row', { name: `nightly nightly-* ${kept}` }).waitFor()
    expect(await rule()).toEqual({
      ...{ jobs: 'nightly-*', keep_last: 3, keep_every: 1000 },
      keep_best: { metric: 'val_loss', mode: 'min', count: 1 },
    })
    await page.getByLabel('Steps that this divides').fill('')
    await page.getByLabel('The best by metric').fill('')
    await page.getByLabel('Of the last days').fill('0.5')
    await page.getByRole('button', { name: 'Set the rule' }).click()
    await page.getByText('the newest 3, those of the last 0.5 days', { exact: true }).waitFor()
    expect(await rule()).toEqual({ jobs: 'nightly-*', keep_last: 3, keep_days: 0.5 })
    await page.getByRole('button', { name: 'Take away' }).click()
    await page.getByText('No rule: all of them stay.').waitFor()
    expect(complaints.filter((text) => !/status of 401/.test(text))).toEqual([])
  })

  test('a guest sees them, and is told who may change them', async () => {
    const guest = await signIn(browser, bench.service.url, await addMember(bench.service, 'guest', 'guest'))
    await guest.goto(`${bench.service.url}/projects/default/checkpoints`)
    await guest.getByRole('row', { name: /^base/ }).waitFor()
    await guest.getByText('It takes develop to link, delete and restore checkpoints').waitFor()
    expect(await guest.locator('main').getByRole('button').count()).toBe(0)
  })
})
