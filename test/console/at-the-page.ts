import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe } from 'vitest'
import type { Clock } from '../../src/base/clock.ts'
import { type Workbench, workbench } from '../cli/command-line.ts'
import { browserPath, openBrowser, signedInPage } from './browser.ts'

/** What the tests of a file share: a service, a browser, and its owner in front of the page. */
export interface AtThePage {
  readonly bench: Workbench
  readonly browser: Browser
  readonly page: Page
  /** Of that page, since it was opened. */
  readonly complaints: readonly string[]
}

interface AtThePageOptions {
  readonly clock?: Clock
  /** What is there before anybody looks. */
  readonly prepare?: (bench: Workbench) => Promise<void> | void
  /** Links that lead from the beginning to what is tested. */
  readonly links: readonly string[]
}

/** Tests of the page on one service, in their order; skipped where there is no browser. `at` is filled before the first. */
export function describeAtThePage(
  title: string,
  { clock, prepare, links }: AtThePageOptions,
  tests: (at: AtThePage) => void,
): void {
  const path = browserPath()
  describe.skipIf(path === undefined)(`${title} (needs chromium)`, () => {
    const at: { -readonly [Name in keyof AtThePage]?: AtThePage[Name] } = {}
    beforeAll(async () => {
      at.bench = await workbench(clock)
      await prepare?.(at.bench)
      at.browser = await openBrowser(path!)
      const { page } = Object.assign(at, await signedInPage(at.browser))
      for (const name of links) await page.getByRole('link', { name, exact: true }).click()
    }, 60_000)
    afterAll(async () => {
      await at.browser?.close()
      await at.bench?.[Symbol.asyncDispose]()
    })
    tests(at as AtThePage)
  })
}
