/** A browser with a person in front of it: Debian's Chromium, driven by playwright. */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { type Browser, chromium, type Page } from 'playwright-core'
import { assert } from '../../src/base/assert.ts'
import { ownFile } from '../../src/base/files.ts'
import { ropeway } from '../cli/command-line.ts'

const names = ['chromium', 'chromium-browser', 'google-chrome'] as const

/** Where this machine has one; undefined where it has none, and tests of the page are skipped. */
export function browserPath(): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter)
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find(mayRun)
}

function mayRun(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch (error) {
    if ((error as { code?: string }).code !== undefined) return false
    throw error
  }
}

export async function openBrowser(path: string): Promise<Browser> {
  assert(ownFile(join('dist', 'console', 'index.html')) !== undefined, 'the page is built: npm run build')
  // Tests run as root in containers, where Chromium's own sandbox cannot be made.
  return await chromium.launch({ executablePath: path, args: ['--no-sandbox'] })
}

/** What the page complained about: errors of its scripts, and of what its policy or the service refused. */
export function complaintsOf(page: Page): string[] {
  const complaints: string[] = []
  page.on('pageerror', ({ message }) => complaints.push(message))
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(`${message.text()} ${message.location().url}`)
  })
  return complaints
}

/** The page as somebody sees it who has signed in with a password. */
export async function signIn(
  browser: Browser,
  url: string,
  { email, password }: { email: string; password: string },
): Promise<Page> {
  const page = await (await browser.newContext()).newPage()
  page.setDefaultTimeout(20_000)
  await page.goto(`${url}/sign-in`)
  await page.getByLabel('Address').fill(email)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Sign in', exact: true }).click()
  await page.getByRole('link', { name: 'Overview' }).waitFor()
  return page
}

/** The service's page as somebody sees it whom an address of `ropeway console` signed in, and what it complains about. */
export async function signedInPage(browser: Browser): Promise<{ page: Page; complaints: string[] }> {
  const context = await browser.newContext({ permissions: ['clipboard-read', 'clipboard-write'] })
  const page = await context.newPage()
  page.setDefaultTimeout(20_000)
  const complaints = complaintsOf(page)
  await page.goto((await ropeway(['console', '-q'])).out.trim())
  return { page, complaints }
}

/** All that the scripts of a page still hold, as V8 writes it down. */
export async function heapOf(page: Page): Promise<string> {
  const session = await page.context().newCDPSession(page)
  const chunks: string[] = []
  session.on('HeapProfiler.addHeapSnapshotChunk', ({ chunk }) => chunks.push(chunk))
  await session.send('HeapProfiler.takeHeapSnapshot')
  await session.detach()
  return chunks.join('')
}
