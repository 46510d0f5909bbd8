/** What happened in a project, and who did what, in the page. */
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createJobEndpoint } from '../../src/api/control/job-endpoints.ts'
import { createKey } from '../../src/api/control/keys.ts'
import { type Workbench, workbench } from '../cli/command-line.ts'
import { addMember } from '../service/running.ts'
import { browserPath, openBrowser, signedInPage, signIn } from './browser.ts'

const path = browserPath()
const params = { project: 'default' }

describe.skipIf(path === undefined)('history in the page (needs chromium)', () => {
  let bench: Workbench
  let browser: Browser
  let page: Page
  let complaints: string[]
  beforeAll(async () => {
    bench = await workbench()
    const { owner } = bench.service
    const file = { name: 'one', run: ['true'] }
    await owner.call(createJobEndpoint, { params, body: { file } })
    const developer = await addMember(bench.service, 'dev', 'develop')
    // More than a page of them.
    for (let number = 1; number <= 55; number++)
      await developer.call(createKey, { params, body: { name: `key-${number}` } })
    browser = await openBrowser(path!)
    ;({ page, complaints } = await signedInPage(browser))
    await page.getByRole('link', { name: 'History', exact: true }).click()
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await bench?.[Symbol.asyncDispose]()
  })

  test('what happened to a job stands there', async () => {
    await page
      .getByRole('row', { name: /job\.\w+ job_\w+/ })
      .first()
      .waitFor()
  })

  test('deeds name who did them, newest first, and older ones are a page away', async () => {
    await page.getByRole('tab', { name: 'Who did what' }).click()
    const deeds = page.getByRole('row', { name: /dev@example\.org key\.create key-\d+ 127\.0\.0\.1/ })
    await deeds.first().waitFor()
    expect(await deeds.first().getByRole('cell', { name: 'key-55', exact: true }).count()).toBe(1)
    expect(await deeds.count()).toBe(50)
    await page.getByRole('button', { name: 'Older' }).click()
    await page.getByRole('row', { name: /owner@localhost job\.create/ }).waitFor()
    expect(await deeds.last().getByRole('cell', { name: 'key-1', exact: true }).count()).toBe(1)
    expect(await page.getByRole('button', { name: 'Older' }).count()).toBe(0)
    await page.getByRole('button', { name: 'Newest' }).click()
    await page.getByRole('row', { name: 'key-55' }).waitFor()
    expect(complaints.filter((text) => !/status of 401/.test(text))).toEqual([])
  })

  test('who may not see deeds is told which role may', async () => {
    const other = await signIn(browser, bench.service.url, await addMember(bench.service, 'guest', 'guest'))
    await other.getByRole('link', { name: 'History', exact: true }).click()
    await other
      .getByRole('row', { name: /job_\w+/ })
      .first()
      .waitFor()
    await other.getByRole('tab', { name: 'Who did what' }).click()
    await other.getByText('It takes maintain to see who did what').waitFor()
  })
})
