import { expect, test } from 'vitest'
import { listProjectAudit } from '../../src/api/control/audit.ts'
import { createCredential, deleteCredential, listCredentials } from '../../src/api/control/credentials.ts'
import { createKey, listKeys, revokeKey } from '../../src/api/control/keys.ts'
import { createProject, listProjects } from '../../src/api/control/projects.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { FaultInjector } from '../store/faults.ts'
import { startService } from './running.ts'

const inDefault = { params: { project: 'default' } }

onEveryDatabase((databases) => {
  for (const fault of ['refused', 'unanswered'] as const)
    test(`what was acknowledged is there, with its audit, whichever database call is ${fault}`, async () => {
      const faults = new FaultInjector()
      await using service = await startService(databases, { watch: faults.watch })
      const { owner } = service
      const made = { projects: new Set<string>(), keys: new Set<string>(), credentials: new Set<string>() }
      const acknowledged = async (work: () => Promise<unknown>, then: () => void) => {
        try {
          await work()
        } catch (error) {
          // A fault is answered as an error of the service, never as a success.
          expect(error).toMatchObject({
            name: 'Refused',
            code: expect.stringMatching(/internal|unavailable/),
          })
          return
        }
        then()
      }
      for (const n of faults.each(fault)) {
        const name = `${fault}-${n}`
        await acknowledged(
          () => owner.call(createProject, { params: { organisation: 'main' }, body: { name } }),
          () => made.projects.add(name),
        )
        await acknowledged(
          () => owner.call(createKey, { ...inDefault, body: { name } }),
          () => made.keys.add(name),
        )
        const values = { kind: 'huggingface', token: 'hf' } as const
        await acknowledged(
          () => owner.call(createCredential, { ...inDefault, body: { name, values } }),
          () => made.credentials.add(name),
        )
        // Only what is known to be there: else the refusal would be that it is not.
        if (made.credentials.has(name) && n % 2 === 0)
          await acknowledged(
            () => owner.call(deleteCredential, { params: { project: 'default', credential: name } }),
            () => made.credentials.delete(name),
          )
      }
      const names = async (items: AsyncIterable<{ name: string }>) => {
        const found: string[] = []
        for await (const { name } of items) found.push(name)
        return found
      }
      const projects = await names(owner.items(listProjects, {}))
      for (const name of made.projects) expect(projects).toContain(name)
      const keys = await names(owner.items(listKeys, inDefault))
      for (const name of made.keys) expect(keys).toContain(name)
      const credentials = await names(owner.items(listCredentials, inDefault))
      for (const name of made.credentials) expect(credentials).toContain(name)
      // A deed and its audit entry are there together or not at all.
      const deeds: string[] = []
      for await (const { action, details } of owner.items(listProjectAudit, inDefault))
        if (action === 'key.create') deeds.push(String(details.name))
      expect(deeds.sort()).toEqual(keys.sort())
      expect(made.projects.size).toBeGreaterThan(10)
    })

  test('revoking a key twice, or what another request has revoked, says that it is not there', async () => {
    await using service = await startService(databases)
    const { id } = await service.owner.call(createKey, { ...inDefault, body: { name: 'one' } })
    const revoke = () => service.owner.call(revokeKey, { params: { project: 'default', key: id } })
    await revoke()
    await expect(revoke()).rejects.toMatchObject({ code: 'not_found' })
  })
})
