/** Credentials in the page: stored, replaced and forgotten, by those who may, and never shown. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { type CredentialKind, createCredential, deleteCredential } from '../../src/api/control/credentials.ts'
import { viewProject } from '../../src/api/control/projects.ts'
import { openCredential } from '../../src/control/credentials/credentials.ts'
import { ropeway } from '../cli/command-line.ts'
import { addMember } from '../service/running.ts'
import { describeAtThePage } from './at-the-page.ts'
import { complaintsOf, signIn } from './browser.ts'

const privateKey = '-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n'

describeAtThePage('credentials in the page', { links: ['Credentials'] }, (at) => {
  /** What jobs and links would find. */
  const held = async (name: string, kind: CredentialKind) => {
    const { id } = await at.bench.service.owner.call(viewProject, { params: { project: 'default' } })
    return await openCredential(at.bench.parts.context, id, name, kind)
  }
  /** All that the page has in it, typed or written. */
  const everything = async () =>
    String(
      await at.page.evaluate(
        'document.documentElement.outerHTML + [...document.querySelectorAll("input")].map((one) => one.value)',
      ),
    )

  test('a credential is stored with the fields of its kind, and its form forgets it', async () => {
    await at.page.getByText('No credentials yet.').waitFor()
    await at.page.getByLabel('Name').fill('bucket')
    await at.page.getByLabel('Kind').selectOption('s3')
    await at.page.getByLabel('Access key ID').fill(' AKIA ')
    const secret = at.page.getByLabel('Secret access key')
    expect(await secret.getAttribute('type')).toBe('password')
    await secret.fill('geheim 1234 ')
    await at.page.getByRole('button', { name: 'Store' }).click()
    await at.page.getByText('bucket is stored.').waitFor()
    await at.page.getByRole('row', { name: /^bucket s3 access key id, secret access key / }).waitFor()
    await expect.poll(() => secret.inputValue()).toBe('')
    expect(await held('bucket', 's3')).toEqual({
      ...{ kind: 's3', access_key_id: 'AKIA', secret_access_key: 'geheim 1234 ' },
    })
    await at.page.reload()
    await at.page.getByRole('row', { name: 'bucket' }).waitFor()
    expect(await everything()).not.toContain('geheim')
  })

  test('a secret of several lines comes as the file that it lies in, and keeps them', async () => {
    await at.page.getByLabel('Name').fill('machine')
    await at.page.getByLabel('Kind').selectOption('ssh')
    const file = { name: 'id_ed25519', mimeType: 'text/plain', buffer: Buffer.from(privateKey) }
    await at.page.getByLabel('Private key').setInputFiles({ ...file, buffer: Buffer.alloc(100_001, 'x') })
    await at.page.getByRole('button', { name: 'Store' }).click()
    await at.page.getByText('id_ed25519 is too large').waitFor()
    await at.page.getByLabel('Private key').setInputFiles(file)
    await at.page.getByRole('button', { name: 'Store' }).click()
    await at.page.getByRole('row', { name: 'machine ssh private key' }).waitFor()
    expect(await held('machine', 'ssh')).toEqual({ kind: 'ssh', private_key: privateKey })
  })

  test('what the service refuses stays in the form, to be mended', async () => {
    await at.page.getByLabel('Name').fill('bucket')
    await at.page.getByLabel('Kind').selectOption('huggingface')
    await at.page.getByLabel('Token').fill('hf_1')
    await at.page.getByRole('button', { name: 'Store' }).click()
    await at.page.getByText('There is already a credential bucket.').waitFor()
    await at.page.getByLabel('Name').fill('hub')
    await at.page.getByRole('button', { name: 'Store' }).click()
    await at.page.getByRole('row', { name: 'hub huggingface token' }).waitFor()
    expect(await held('hub', 'huggingface')).toEqual({ kind: 'huggingface', token: 'hf_1' })
    // Another kind has fields of its own, and those of the same name begin empty.
    await at.page.getByLabel('Token').fill('hf_2')
    await at.page.getByLabel('Kind').selectOption('mlflow')
    await at.page.getByText('Either a token, or a name and a password.').waitFor()
    await expect.poll(() => at.page.getByLabel('Token').inputValue()).toBe('')
  })

  test('other values are put into one, which keeps its name', async () => {
    await at.page.getByRole('row', { name: 'hub' }).getByRole('button', { name: 'Replace' }).click()
    await at.page.getByRole('heading', { name: 'Other values for hub' }).waitFor()
    await expect.poll(() => at.page.getByLabel('Kind').inputValue()).toBe('huggingface')
    await at.page.getByLabel('Token').fill('hf_3')
    await at.page.getByLabel('Endpoint').fill('https://mirror.example.org')
    await at.page.getByRole('button', { name: 'Put them in' }).click()
    await at.page.getByRole('row', { name: 'hub huggingface token, endpoint' }).waitFor()
    expect(await held('hub', 'huggingface')).toEqual({
      ...{ kind: 'huggingface', token: 'hf_3', endpoint: 'https://mirror.example.org' },
    })
    await at.page.getByRole('heading', { name: 'Another one' }).waitFor()
    expect(await everything()).not.toContain('hf_3')
  })

  test('what somebody deletes meanwhile is not put into another one that begins with its name', async () => {
    const { owner } = at.bench.service
    const params = { project: 'default' }
    const values = { kind: 'huggingface', token: 'hf_prod' } as const
    await owner.call(createCredential, { params, body: { name: 'gone-prod', values } })
    const { id } = await owner.call(createCredential, { params, body: { name: 'gone', values } })
    await at.page
      .getByRole('row', { name: /^gone huggingface/ })
      .getByRole('button', { name: 'Replace' })
      .click()
    await owner.call(deleteCredential, { params: { ...params, credential: id } })
    await at.page.getByLabel('Token').fill('hf_test')
    await at.page.getByRole('button', { name: 'Put them in' }).click()
    await at.page.getByText('There is no credential').waitFor()
    expect(await held('gone-prod', 'huggingface')).toEqual(values)
    await at.page.getByRole('button', { name: 'Leave it as it is' }).click()
    await owner.call(deleteCredential, { params: { ...params, credential: 'gone-prod' } })
  })

  test('what names a credential stands beside it, and leads there', async () => {
    mkdirSync(`${at.bench.folder}/logs`)
    writeFileSync(`${at.bench.folder}/logs/a.txt`, 'a line')
    const line = ['dataset', 'link', 'logs', `file://${at.bench.folder}/logs`, '--credential', 'bucket']
    const linked = await ropeway(line)
    expect(linked.code, linked.err).toBe(0)
    await at.page.reload()
    const row = at.page.getByRole('row', { name: 'bucket' })
    await row.getByText('dataset logs').waitFor()
    expect((await ropeway(['credential', 'list'])).out).toMatch(/^bucket .* dataset logs /m)
    await row.getByRole('link', { name: 'logs' }).click()
    await at.page.getByRole('heading', { name: 'logs', exact: true }).waitFor()
    await at.page.getByRole('link', { name: 'Credentials', exact: true }).click()
  })

  test('one is forgotten when that was confirmed, and not before', async () => {
    const names = async () => (await ropeway(['credential', 'list', '--json'])).json.map(({ name }) => name)
    const row = at.page.getByRole('row', { name: 'hub' })
    await row.getByRole('button', { name: 'Delete' }).click()
    await at.page.getByRole('alertdialog').getByRole('button', { name: 'Cancel' }).click()
    expect(await names()).toContain('hub')
    await row.getByRole('button', { name: 'Delete' }).click()
    await at.page.getByRole('alertdialog').getByRole('button', { name: 'Delete' }).click()
    await row.waitFor({ state: 'detached' })
    expect(await names()).toEqual(['bucket', 'machine'])
    expect(at.complaints.filter((text) => !/status of 40[149]/.test(text))).toEqual([])
  })

  test('roles that may not store them, or not see them, are told which role may', async () => {
    const pageOf = async (name: string, role: 'develop' | 'guest') => {
      const member = await addMember(at.bench.service, name, role)
      const other = await signIn(at.browser, at.bench.service.url, member)
      const refused = complaintsOf(other)
      await other.getByRole('link', { name: 'Credentials', exact: true }).click()
      return { other, refused }
    }
    const { other: developer } = await pageOf('dev', 'develop')
    await developer.getByRole('row', { name: 'bucket' }).waitFor()
    await developer.getByText('It takes maintain to store, replace and delete credentials').waitFor()
    for (const verb of ['Store', 'Replace', 'Delete'])
      await expect.poll(() => developer.getByRole('button', { name: verb }).count()).toBe(0)
    const { other: guest, refused } = await pageOf('guest', 'guest')
    await guest.getByText('You are guest in default. It takes develop to see which').waitFor()
    // Nothing was asked that would be refused.
    expect(refused).toEqual([])
  })
})
