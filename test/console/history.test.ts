/** What happened in a project, and who did what, in the page. */
import { expect, test } from 'vitest'
import { createJobEndpoint } from '../../src/api/control/job-endpoints.ts'
import { createKey } from '../../src/api/control/keys.ts'
import { addMember } from '../service/running.ts'
import { describeAtThePage } from './at-the-page.ts'
import { signIn } from './browser.ts'

const params = { project: 'default' }

describeAtThePage(
  'history in the page',
  {
    prepare: async (bench) => {
      const { owner } = bench.service
      const file = { name: 'one', run: ['true'] }
      await owner.call(createJobEndpoint, { params, body: { file } })
      const developer = await addMember(bench.service, 'dev', 'develop')
      // More than a page of them.
      for (let number = 1; number <= 55; number++)
        await developer.call(createKey, { params, body: { name: `key-${number}` } })
    },
    links: ['History'],
  },
  (at) => {
    test('what happened to a job stands there', async () => {
      await at.page
        .getByRole('row', { name: /job\.\w+ job_\w+/ })
        .first()
        .waitFor()
    })

    test('deeds name who did them, newest first, and older ones are a page away', async () => {
      await at.page.getByRole('tab', { name: 'Who did what' }).click()
      const deeds = at.page.getByRole('row', { name: /dev@example\.org key\.create key-\d+ 127\.0\.0\.1/ })
      await deeds.first().waitFor()
      await expect
        .poll(() => deeds.first().getByRole('cell', { name: 'key-55', exact: true }).count())
        .toBe(1)
      await expect.poll(() => deeds.count()).toBe(50)
      await at.page.getByRole('button', { name: 'Older' }).click()
      await at.page.getByRole('row', { name: /owner@localhost job\.create/ }).waitFor()
      await expect.poll(() => deeds.last().getByRole('cell', { name: 'key-1', exact: true }).count()).toBe(1)
      await expect.poll(() => at.page.getByRole('button', { name: 'Older' }).count()).toBe(0)
      await at.page.getByRole('button', { name: 'Newest' }).click()
      await at.page.getByRole('row', { name: 'key-55' }).waitFor()
      expect(at.complaints.filter((text) => !/status of 401/.test(text))).toEqual([])
    })

    test('who may not see deeds is told which role may', async () => {
      const other = await signIn(
        at.browser,
        at.bench.service.url,
        await addMember(at.bench.service, 'guest', 'guest'),
      )
      await other.getByRole('link', { name: 'History', exact: true }).click()
      await other
        .getByRole('row', { name: /job_\w+/ })
        .first()
        .waitFor()
      await other.getByRole('tab', { name: 'Who did what' }).click()
      await other.getByText('It takes maintain to see who did what').waitFor()
    })
  },
)
