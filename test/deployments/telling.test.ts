import { expect, test } from 'vitest'
import { deploymentInput } from '../../src/api/control/deployments.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { credentialsOf, sealedColumns } from '../../src/control/credentials/credentials.ts'
import { credentialsMigration } from '../../src/control/credentials/migration.ts'
import { Sealer } from '../../src/control/credentials/sealer.ts'
import { Deployments } from '../../src/control/deployments/deployments.ts'
import { deploymentMigrations } from '../../src/control/deployments/migration.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { sendNotices } from '../../src/control/jobs/notices.ts'
import { onEveryDatabase } from '../store/databases.ts'

onEveryDatabase((databases) => {
  test('what a deployment is to tell of goes to the chat, and nothing else', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    const migrations = [...jobMigrations, ...deploymentMigrations, credentialsMigration]
    await using store = await databases.open({ migrations, clock })
    const sealer = new Sealer(Buffer.alloc(32, 7))
    const id = store.ids.next('credential')
    const columns = sealedColumns(sealer, id, { kind: 'slack', webhook_url: 'https://hooks.example/T' })
    await credentialsOf(store).insert({ id, project_id: 'p', name: 'team', status: {}, ...columns })
    const sources = { resolve: async () => undefined, hold: async () => true }
    const deployments = new Deployments(store, 'local', sources, () => undefined)
    const notify = { slack: 'team', on: ['created', 'rolled_back'] }
    const input = { name: 'chat', version: { model: 'local:base' }, notify }
    const row = await deployments.create('p', deploymentInput.parse(input))
    await deployments.update(row.id, { public: true })
    await deployments.create('p', deploymentInput.parse({ ...input, name: 'silent', notify: null }))
    const sent: string[] = []
    expect(await sendNotices(store, sealer, 'me', async (_, text) => void sent.push(text))).toBe(1)
    expect(sent).toEqual([`Deployment chat: It was made, with local:base. (${row.id})`])
  })
})
