/** Checkpoints in the page: linked, deleted and restored, and the rules about those of jobs. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ropeway } from '../cli/command-line.ts'
import { addMember } from '../service/running.ts'
import { describeAtThePage } from './at-the-page.ts'
import { signIn } from './browser.ts'

describeAtThePage(
  'checkpoints in the page',
  {
    prepare: (bench) => {
      mkdirSync(`${bench.folder}/weights`)
      writeFileSync(`${bench.folder}/weights/model.gguf`, 'weights')
    },
    links: ['Models', 'Checkpoints'],
  },
  (at) => {
    test('a folder is linked as a checkpoint, which leads to a deployment', async () => {
      await at.page.getByText('No checkpoints yet.').waitFor()
      await at.page.getByText('Link a bucket or a folder').click()
      await at.page.getByLabel('Name of the checkpoint').fill('base')
      await at.page.getByLabel('Where it lies').fill(`file://${at.bench.folder}/weights`)
      await at.page.getByRole('button', { name: 'Link', exact: true }).click()
      const row = at.page.getByRole('row', { name: /^base file:.*weights gguf 7 B/ })
      await row.getByRole('link', { name: 'Deploy' }).click()
      const chosen = at.page.getByLabel('Model or checkpoint').locator('option:checked')
      await expect.poll(() => chosen.textContent()).toBe('base')
      await at.page.goBack()
    })

    test('one is deleted when that was confirmed, and restored', async () => {
      const names = async () => (await ropeway(['checkpoint', 'list', '--json'])).json.map(({ name }) => name)
      await at.page.getByRole('button', { name: 'Delete' }).click()
      await at.page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
      await at.page.getByText('Deleted, and there for a day').waitFor()
      expect(await names()).toEqual([])
      await at.page.getByRole('button', { name: 'Restore' }).click()
      await at.page.getByText('Deleted, and there for a day').waitFor({ state: 'detached' })
      expect(await names()).toEqual(['base'])
    })

    test('a rule is set, set otherwise, and taken away', async () => {
      const rule = async () => (await ropeway(['retention', 'list', '--json'])).json[0]?.rule
      await at.page.getByText('No rule: all of them stay.').waitFor()
      await at.page.getByLabel('Rule, new').fill('nightly')
      await at.page.getByLabel('Of jobs named').fill('nightly-*')
      await at.page.getByLabel('Keep the newest').fill('3')
      await at.page.getByLabel('Steps that this divides').fill('1000')
      await at.page.getByLabel('The best by metric').fill('val_loss')
      await at.page.getByLabel('so many of them').fill('2')
      await at.page.getByRole('button', { name: 'Set the rule' }).click()
      const kept = 'the newest 3, steps that 1,000 divides, the 2 with the least val_loss'
      await at.page.getByRole('row', { name: `nightly nightly-* ${kept}` }).waitFor()
      expect(await rule()).toEqual({
        ...{ jobs: 'nightly-*', keep_last: 3, keep_every: 1000 },
        keep_best: { metric: 'val_loss', mode: 'min', count: 2 },
      })
      await at.page.getByLabel('Steps that this divides').fill('')
      await at.page.getByLabel('The best by metric').fill('')
      await at.page.getByLabel('Of the last days').fill('0.5')
      await at.page.getByRole('button', { name: 'Set the rule' }).click()
      await at.page.getByText('the newest 3, those of the last 0.5 days', { exact: true }).waitFor()
      expect(await rule()).toEqual({ jobs: 'nightly-*', keep_last: 3, keep_days: 0.5 })
      await at.page.getByRole('button', { name: 'Take away' }).click()
      await at.page.getByText('No rule: all of them stay.').waitFor()
      expect(at.complaints.filter((text) => !/status of 401/.test(text))).toEqual([])
    })

    test('a guest sees them, and is told who may change them', async () => {
      const guest = await signIn(
        at.browser,
        at.bench.service.url,
        await addMember(at.bench.service, 'guest', 'guest'),
      )
      await guest.goto(`${at.bench.service.url}/projects/default/checkpoints`)
      await guest.getByRole('row', { name: /^base/ }).waitFor()
      await guest.getByText('It takes develop to link, delete and restore checkpoints').waitFor()
      await expect.poll(() => guest.locator('main').getByRole('button').count()).toBe(0)
    })
  },
)
