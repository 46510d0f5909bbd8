import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createCredential, listCredentialUses } from '../../src/api/control/credentials.ts'
import { linkDataset } from '../../src/api/control/datasets.ts'
import { createDeployment } from '../../src/api/control/deployments.ts'
import { createJobEndpoint, stopJob } from '../../src/api/control/job-endpoints.ts'
import { saveTemplate } from '../../src/api/control/job-templates.ts'
import { linkCheckpoint } from '../../src/api/control/models.ts'
import { migrations, routesOf } from '../../src/cli/service-parts.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { baseMigrations, baseRoutes } from '../../src/control/service/modules.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { addMember, startService } from './running.ts'

const params = { project: 'default' }

function open(databases: TestDatabases, folder: string) {
  return startService(databases, {
    migrations: migrations.filter((migration) => !baseMigrations.includes(migration)),
    routes: (_, context) =>
      routesOf({
        ...{ context, folder, linkFolders: [folder] },
        objects: FolderStore.create(join(folder, 'objects')),
        server: { id: 'server_1', cluster: 'local' },
        gateway: { host: '127.0.0.1', port: 0 },
      }).filter((module) => !baseRoutes.includes(module)),
  })
}

onEveryDatabase((databases) => {
  test('whatever names a credential is told, until it is at rest or names another', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-uses-'))
    await using service = await open(databases, folder)
    const { owner } = service
    const uses = async () => {
      const { items } = await owner.call(listCredentialUses, { params })
      return items.map(({ credential, by, name }) => `${credential}: ${by} ${name}`).sort()
    }
    expect(await uses()).toEqual([])
    for (const [name, values] of [
      ['team', { kind: 'slack', webhook_url: 'https://example.org/hook' }],
      ['tracker', { kind: 'wandb', api_key: 'w' }],
      ['ours', { kind: 'docker', registry: 'r.example.org', username: 'u', password: 'p' }],
    ] as const)
      await owner.call(createCredential, { params, body: { name, values } })
    writeFileSync(join(folder, 'config.json'), '{}')
    const url = `file://${folder}`
    const linked = (dataset: string, credential?: string) =>
      owner.call(linkDataset, {
        params: { ...params, dataset },
        body: { link: { url, ...(credential && { credential }) } },
      })
    await linked('logs', 'store')
    await linked('open')
    await owner.call(linkCheckpoint, {
      params,
      body: { name: 'base', link: { url, credential: 'store' } },
    })
    const job = { credentials: ['tracker'], notify: { slack: 'team' } }
    const file = { name: 'often', run: ['true'], job }
    await owner.call(saveTemplate, { params: { ...params, template: 'nightly' }, body: { file } })
    const { id } = await owner.call(createJobEndpoint, {
      params,
      body: { file: { ...file, image: 'r.example.org/a', registry: 'ours' } },
    })
    const notify = { slack: 'team' }
    const body = { name: 'chat', version: { model: 'checkpoint:base' }, notify }
    await owner.call(createDeployment, { params, body })
    const lasting = [
      ...['store: checkpoint base', 'store: dataset logs', 'team: deployment chat'],
      ...['team: template nightly', 'tracker: template nightly'],
    ]
    expect(await uses()).toEqual(
      [...lasting, 'ours: job often', 'team: job often', 'tracker: job often'].sort(),
    )
    await owner.call(stopJob, { params: { ...params, job: id } })
    expect(await uses()).toEqual(lasting)
    // Only the newest version counts.
    writeFileSync(join(folder, 'b.txt'), 'another')
    await linked('logs', 'else')
    expect(await uses()).toContain('else: dataset logs')
    expect(await uses()).not.toContain('store: dataset logs')
    const guest = await addMember(service, 'guest', 'guest')
    await expect(guest.call(listCredentialUses, { params })).rejects.toMatchObject({ code: 'forbidden' })
    rmSync(folder, { recursive: true, force: true })
  })
})
