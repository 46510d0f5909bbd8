/** Models, their lineage and keys in the page. */
import { mkdirSync, writeFileSync } from 'node:fs'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'
import { browserPath, openBrowser, signedInPage } from './browser.ts'

const path = browserPath()

describe.skipIf(path === undefined)('models and keys in the page (needs chromium)', () => {
  let bench: Workbench
  let browser: Browser
  let page: Page
  let complaints: string[]
  beforeAll(async () => {
    bench = await workbench()
    for (const name of ['base', 'better']) {
      mkdirSync(`${bench.folder}/${name}`)
      writeFileSync(`${bench.folder}/${name}/weights.bin`, name)
      const made = await ropeway(['checkpoint', 'upload', name, `${bench.folder}/${name}`])
      expect(made.code, made.err).toBe(0)
    }
    browser = await openBrowser(path!)
    ;({ page, complaints } = await signedInPage(browser))
    await page.getByRole('link', { name: 'Models', exact: true }).click()
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await bench?.[Symbol.asyncDispose]()
  })

  test('checkpoints are promoted to versions of a model, and an alias goes back to the first', async () => {
    await page.getByText('No models yet').waitFor()
    for (const checkpoint of ['base', 'better']) {
      await page.getByRole('link', { name: 'Models', exact: true }).click()
      await page.getByLabel('Checkpoint').selectOption(checkpoint)
      await page.getByLabel('Model, new').fill('chat')
      await page.getByLabel('Alias').fill('prod')
      await page.getByRole('button', { name: 'Promote' }).click()
      await page.getByRole('cell', { name: checkpoint }).waitFor()
    }
    await page.getByRole('row', { name: 'prod 2 Take away' }).waitFor()
    await page.getByRole('textbox', { name: 'Alias' }).fill('prod')
    await page.getByLabel('is version').fill('1')
    await page.getByRole('button', { name: 'Set' }).click()
    await page.getByRole('row', { name: 'prod 1 Take away' }).waitFor()
    const viewed = await ropeway(['model', 'view', 'chat:prod', '--json'])
    expect(viewed.json[0]).toMatchObject({ version: { number: 1 }, checkpoint: { name: 'base' } })
  })

  test('its lineage names the checkpoint, and a version is chosen for a deployment', async () => {
    await page.locator('.lineage li', { hasText: 'chat@2' }).first().waitFor()
    await page.locator('.lineage li', { hasText: 'better' }).first().waitFor()
    await page
      .getByRole('row', { name: /^1 prod base/ })
      .getByRole('link', { name: 'Deploy' })
      .click()
    await page.getByLabel('Model or checkpoint').waitFor()
    expect(await page.getByLabel('Model or checkpoint').inputValue()).toBe('chat@1')
  })

  test('a key is shown once, may do what was said, and is refused once it is revoked', async () => {
    await page.getByRole('link', { name: 'Keys', exact: true }).click()
    await page.getByLabel('Name').fill('robot')
    await page.getByLabel('It may').selectOption('look at everything')
    await page.getByRole('button', { name: 'Make a key' }).click()
    await page.getByRole('button', { name: 'Copy the new key' }).click()
    await page.getByText('Copied').waitFor()
    const key = String(await page.evaluate('navigator.clipboard.readText()'))
    const asked = () =>
      fetch(`${bench.service.url}/api/v1/projects/default/models`, {
        headers: { authorization: `Bearer ${key}` },
      })
    expect((await asked()).status).toBe(200)
    const row = page.getByRole('row', { name: 'robot' })
    await row.getByText('*:view').waitFor()
    await row.getByRole('button', { name: 'Revoke' }).click()
    await page.getByRole('alertdialog').getByRole('button', { name: 'Revoke' }).click()
    await row.waitFor({ state: 'detached' })
    expect((await asked()).status).toBe(401)
    await page.reload()
    await page.getByRole('heading', { name: 'Keys', exact: true }).waitFor()
    expect(await page.getByText(key).count()).toBe(0)
    expect(complaints.filter((text) => !/status of 40[01]/.test(text))).toEqual([])
  })
})
