/** Models, their lineage, keys, budgets and members in the page. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import { signUp } from '../../src/api/control/people.ts'
import { ropeway } from '../cli/command-line.ts'
import { describeAtThePage } from './at-the-page.ts'

describeAtThePage(
  'models and keys in the page',
  {
    prepare: async (bench) => {
      for (const name of ['base', 'better']) {
        mkdirSync(`${bench.folder}/${name}`)
        writeFileSync(`${bench.folder}/${name}/weights.bin`, name)
        const made = await ropeway(['checkpoint', 'upload', name, `${bench.folder}/${name}`])
        expect(made.code, made.err).toBe(0)
      }
    },
    links: ['Models'],
  },
  (at) => {
    test('checkpoints are promoted to versions of a model, and an alias goes back to the first', async () => {
      await at.page.getByText('No models yet').waitFor()
      for (const checkpoint of ['base', 'better']) {
        await at.page.getByRole('link', { name: 'Models', exact: true }).click()
        await at.page.getByLabel('Checkpoint').selectOption(checkpoint)
        await at.page.getByLabel('Model, new').fill('chat')
        await at.page.getByLabel('Alias').fill('prod')
        await at.page.getByRole('button', { name: 'Promote' }).click()
        await at.page.getByRole('cell', { name: checkpoint }).waitFor()
      }
      await at.page.getByRole('row', { name: 'prod 2 Take away' }).waitFor()
      await at.page.getByRole('textbox', { name: 'Alias' }).fill('prod')
      await at.page.getByLabel('is version').fill('1')
      await at.page.getByRole('button', { name: 'Set' }).click()
      await at.page.getByRole('row', { name: 'prod 1 Take away' }).waitFor()
      const viewed = await ropeway(['model', 'view', 'chat:prod', '--json'])
      expect(viewed.json[0]).toMatchObject({ version: { number: 1 }, checkpoint: { name: 'base' } })
    })

    test('its lineage names the checkpoint, and a version is chosen for a deployment', async () => {
      await at.page.locator('.lineage li', { hasText: 'chat@2' }).first().waitFor()
      await at.page.locator('.lineage li', { hasText: 'better' }).first().waitFor()
      await at.page
        .getByRole('row', { name: /^1 prod base/ })
        .getByRole('link', { name: 'Deploy' })
        .click()
      await at.page.getByLabel('Model or checkpoint').waitFor()
      await expect.poll(() => at.page.getByLabel('Model or checkpoint').inputValue()).toBe('chat@1')
    })

    test('a key is shown once, may do what was said, and is refused once it is revoked', async () => {
      await at.page.getByRole('link', { name: 'Keys', exact: true }).click()
      await at.page.getByLabel('Name').fill('robot')
      await at.page.getByLabel('It may').selectOption('look at everything')
      await at.page.getByRole('button', { name: 'Make a key' }).click()
      await at.page.getByRole('button', { name: 'Copy the new key' }).click()
      await at.page.getByText('Copied').waitFor()
      const key = String(await at.page.evaluate('navigator.clipboard.readText()'))
      const asked = () =>
        fetch(`${at.bench.service.url}/api/v1/projects/default/models`, {
          headers: { authorization: `Bearer ${key}` },
        })
      expect((await asked()).status).toBe(200)
      const row = at.page.getByRole('row', { name: 'robot' })
      await row.getByText('*:view').waitFor()
      await row.getByRole('button', { name: 'Revoke' }).click()
      await at.page.getByRole('alertdialog').getByRole('button', { name: 'Revoke' }).click()
      await row.waitFor({ state: 'detached' })
      expect((await asked()).status).toBe(401)
      await at.page.reload()
      await at.page.getByRole('heading', { name: 'Keys', exact: true }).waitFor()
      await expect.poll(() => at.page.getByText(key).count()).toBe(0)
    })

    test('a budget of the project or of a key is set, shown and removed', async () => {
      await at.page.getByLabel('Name').fill('robot')
      await at.page.getByRole('button', { name: 'Make a key' }).click()
      await at.page.getByRole('row', { name: 'robot' }).waitFor()
      await at.page.getByRole('link', { name: 'Usage', exact: true }).click()
      await at.page.getByText('Nothing is bounded.').waitFor()
      await at.page.getByRole('button', { name: 'Set' }).click()
      await at.page.getByText('bounds tokens, cost').waitFor()
      await at.page.getByLabel('Tokens at most').fill('5000')
      await at.page.getByLabel('Hours of devices at most').fill('2.5')
      await at.page.getByRole('button', { name: 'Set' }).click()
      await at.page.getByRole('row', { name: 'the project a month 5,000 2.5' }).waitFor()
      await at.page.getByLabel('Hours of devices at most').fill('')
      await at.page.getByLabel('Budget of').selectOption('key robot')
      await at.page.getByLabel('In each').selectOption('day')
      await at.page.getByRole('button', { name: 'Set' }).click()
      await at.page.getByRole('row', { name: 'key robot a day 5,000' }).waitFor()
      const listed = await ropeway(['usage', 'budgets', '--json'])
      expect(listed.json.map(({ per, tokens }) => [per, tokens])).toContainEqual(['day', 5000])
      for (const left of [1, 0]) {
        await at.page.getByRole('button', { name: 'Remove' }).first().click()
        await expect.poll(() => at.page.getByRole('button', { name: 'Remove' }).count()).toBe(left)
      }
    })

    test('who is invited joins as what was said, gets another role, and is taken out', async () => {
      await at.page.getByRole('link', { name: 'Members', exact: true }).click()
      await at.page.getByText('Nobody is invited.').waitFor()
      await at.page.getByLabel('Address to add').fill('stranger@example.org')
      await at.page.getByRole('button', { name: 'Add' }).click()
      await at.page.getByRole('alert').first().waitFor()
      await at.page.getByLabel('Address to invite').fill('new@example.org')
      await at.page.getByLabel('As').last().selectOption('guest')
      await at.page.getByRole('button', { name: 'Invite' }).click()
      await at.page.getByRole('row', { name: 'new@example.org default guest' }).waitFor()
      await at.page.getByRole('button', { name: 'Copy the invitation' }).click()
      await at.page.getByText('Copied').waitFor()
      const line = String(await at.page.evaluate('navigator.clipboard.readText()'))
      expect(line).toMatch(/^ropeway signup http:.* --email new@example.org --invitation \S+$/)
      const body = {
        ...{ email: 'new@example.org', name: 'New', password: 'a long enough passphrase', client: 'test' },
        invitation: line.split(' ').at(-1)!,
      }
      await new Client({ url: at.bench.service.url }).call(signUp, { body })
      await at.page.reload()
      const role = at.page.getByLabel('Role of new@example.org')
      await role.waitFor()
      await expect.poll(() => role.inputValue()).toBe('guest')
      await role.selectOption('maintain')
      const members = async () => (await ropeway(['project', 'members', '--json'])).json
      await expect.poll(async () => (await members()).map((one) => one.role)).toContain('maintain')
      const row = at.page.getByRole('row', { name: 'new@example.org' })
      await row.getByRole('button', { name: 'Take out' }).click()
      await at.page.getByRole('alertdialog').getByRole('button', { name: 'Take out' }).click()
      await row.waitFor({ state: 'detached' })
      expect(at.complaints.filter((text) => !/status of 40[0134]/.test(text))).toEqual([])
    })
  },
)
