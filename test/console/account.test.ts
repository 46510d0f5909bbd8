/** The account of somebody in the page: their password, second factor and own keys. */
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { whoAmI } from '../../src/api/control/people.ts'
import { listProjects, removeOrganisationMember } from '../../src/api/control/projects.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { totpAt, totpStepMs } from '../../src/control/people/totp.ts'
import { type Workbench, workbench } from '../cli/command-line.ts'
import { addMember, fromBase32 } from '../service/running.ts'
import { browserPath, complaintsOf, heapOf, openBrowser, signIn } from './browser.ts'

const path = browserPath()
const password = 'a new and longer passphrase'

describe.skipIf(path === undefined)('the account in the page (needs chromium)', () => {
  const clock = new ManualClock(1_700_000_000_000)
  let bench: Workbench
  let browser: Browser
  let page: Page
  let complaints: string[]
  let ann: { email: string; password: string }
  beforeAll(async () => {
    bench = await workbench(clock)
    ann = await addMember(bench.service, 'ann', 'develop')
    browser = await openBrowser(path!)
    page = await signIn(browser, bench.service.url, ann)
    complaints = complaintsOf(page)
    await page.getByRole('link', { name: ann.email }).click()
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await bench?.[Symbol.asyncDispose]()
  })

  /** The secret that the page showed, and what an app makes of it now; no code counts twice. */
  let secret: Uint8Array
  const codeNow = () => {
    clock.advance(totpStepMs)
    return totpAt(secret, Math.floor(clock.unixMs() / totpStepMs))
  }

  test('another password ends other sessions, and the form forgets both', async () => {
    const other = await signIn(browser, bench.service.url, ann)
    const form = page.locator('form', { hasText: 'Password until now' })
    const fill = async (old: string, again: string) => {
      await form.getByLabel('Password until now').fill(old)
      await form.getByLabel('New password').fill(password)
      await form.getByLabel('The new one again').fill(again)
      await form.getByRole('button', { name: 'Change' }).click()
    }
    await fill(ann.password, `${password}?`)
    await page.getByText('The new password is not the same twice.').waitFor()
    await fill('not the one', password)
    await page.getByText('The new password is not the same twice.').waitFor({ state: 'detached' })
    await page.getByRole('alert').waitFor()
    await fill(ann.password, password)
    await page.getByText('It is changed').waitFor()
    await expect.poll(() => form.getByLabel('New password').inputValue()).toBe('')
    await other.reload()
    await other.getByRole('button', { name: 'Sign in', exact: true }).waitFor()
    await other.context().close()
  })

  test('an authenticator app is set up, and recovery codes show once', async () => {
    await page.getByText('It is off').waitFor()
    await page.getByLabel('Your password').fill(password)
    await page.getByRole('button', { name: 'Set up an authenticator app' }).click()
    const shown = await page.locator('.copy code').first().textContent()
    secret = fromBase32(shown!)
    await page.getByLabel('Code of the app').fill('000000')
    await page.getByRole('button', { name: 'Turn it on' }).click()
    await page.getByRole('alert').waitFor()
    await page.getByLabel('Code of the app').fill(codeNow())
    await page.getByRole('button', { name: 'Turn it on' }).click()
    await page.getByText('It is on').waitFor()
    // The page itself holds it no longer, to say nothing of showing it.
    await expect.poll(async () => (await heapOf(page)).includes(shown!)).toBe(false)
    const codes = (await page.locator('.made code').textContent())!.split(' ')
    expect(codes).toHaveLength(10)
    await expect.poll(() => page.getByText(shown!).count()).toBe(0)
    await page.reload()
    await page.getByText('It is on').waitFor()
    await expect.poll(() => page.getByText(codes[0]!).count()).toBe(0)
    const other = await (await browser.newContext()).newPage()
    await other.goto(`${bench.service.url}/sign-in`)
    await other.getByLabel('Address').fill(ann.email)
    await other.getByLabel('Password').fill(password)
    await other.getByRole('button', { name: 'Sign in', exact: true }).click()
    await other.getByLabel('Code of your authenticator app').fill(codes[0]!)
    await other.getByRole('button', { name: 'Sign in', exact: true }).click()
    await other.getByRole('link', { name: 'Overview' }).waitFor()
    await other.context().close()
  })

  test('recovery codes are renewed, and one of them turns the app off', async () => {
    await page.getByLabel('Code of the app', { exact: true }).fill(codeNow())
    await page.getByRole('button', { name: 'Make new recovery codes' }).click()
    const codes = (await page.locator('.made code').textContent())!.split(' ')
    await page.getByLabel('or a recovery code').fill(codes[3]!)
    await page.getByRole('button', { name: 'Turn it off' }).click()
    await page.getByText('It is off').waitFor()
    await expect.poll(async () => (await heapOf(page)).includes(codes[0]!)).toBe(false)
    await signIn(browser, bench.service.url, { email: ann.email, password })
  })

  test('a key that is oneself works in all projects until it is revoked', async () => {
    await page.getByText('You have none.').waitFor()
    await page.getByLabel('Name').fill('robot')
    await page.getByLabel('It may').selectOption('do all that I may')
    await page.getByRole('button', { name: 'Make a key' }).click()
    const client = bench.service.as((await page.locator('.made code').textContent())!)
    const { items } = await client.call(listProjects, {})
    expect(items.map(({ name }) => name)).toEqual(['default'])
    const row = page.getByRole('row', { name: 'robot' })
    await row.getByRole('button', { name: 'Revoke' }).click()
    await page.getByRole('alertdialog').getByRole('button', { name: 'Revoke' }).click()
    await row.waitFor({ state: 'detached' })
    await expect(client.call(listProjects, {})).rejects.toMatchObject({ code: 'unauthenticated' })
    // The mistakes above were refused.
    expect(complaints.filter((text) => !/status of 40[0-9]/.test(text))).toEqual([])
  })

  test('a project is made by whoever has none, and by others in their account', async () => {
    const member = await addMember(bench.service, 'new', undefined)
    const other = await (await browser.newContext()).newPage()
    other.setDefaultTimeout(20_000)
    await other.goto(`${bench.service.url}/sign-in`)
    await other.getByLabel('Address').fill(member.email)
    await other.getByLabel('Password').fill(member.password)
    await other.getByRole('button', { name: 'Sign in', exact: true }).click()
    await other.getByText('You belong to no project yet.').waitFor()
    await other.getByLabel('New project').fill('poems')
    await other.getByLabel('What people call it').fill('Poems of the sea')
    await other.getByRole('button', { name: 'Make it' }).click()
    await other.getByRole('heading', { name: 'Poems of the sea' }).waitFor()
    await other.getByRole('link', { name: member.email }).click()
    await other.getByText('poems (admin)').waitFor()
    await other.getByLabel('New project').fill('poems')
    await other.getByRole('button', { name: 'Make it' }).click()
    await other.getByRole('alert').waitFor()
    await other.getByLabel('New project').fill('prose')
    await other.getByRole('button', { name: 'Make it' }).click()
    await other.getByRole('heading', { name: 'prose' }).waitFor()
    // The list of projects is read again behind the page's heading.
    await expect.poll(() => other.getByLabel('Project', { exact: true }).inputValue()).toBe('prose')
    await other.context().close()
  })

  test('who is in no organisation is not told to make a project', async () => {
    const member = await addMember(bench.service, 'alone', undefined)
    const { person } = await member.call(whoAmI, {})
    const params = { organisation: 'main', person: person.id }
    await bench.service.owner.call(removeOrganisationMember, { params })
    const other = await (await browser.newContext()).newPage()
    other.setDefaultTimeout(20_000)
    await other.goto(`${bench.service.url}/sign-in`)
    await other.getByLabel('Address').fill(member.email)
    await other.getByLabel('Password').fill(member.password)
    await other.getByRole('button', { name: 'Sign in', exact: true }).click()
    await other.getByText(/An admin of one can add you\.$/).waitFor()
  })
})
