import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import { migrations, type Parts, routesOf } from '../../src/cli/service-parts.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { baseMigrations, baseRoutes } from '../../src/control/service/modules.ts'
import { watched } from '../datasets/harness.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { FaultInjector } from '../store/faults.ts'
import { deeds } from './deeds.ts'
import { type RunningService, startService } from './running.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-nouns-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

/** Done already, by the request whose answer was lost. */
const isDone = (error: unknown) => /name_taken|conflict/.test((error as { code: string }).code)

onEveryDatabase((databases) => {
  const faults = new FaultInjector()
  let service: RunningService
  let client: Client

  beforeAll(async () => {
    const own = join(folder, databases.kind)
    let parts: Parts | undefined
    service = await startService(databases, {
      watch: faults.watch,
      migrations: migrations.filter((migration) => !baseMigrations.includes(migration)),
      routes: (_, context) => {
        parts = {
          ...{ context, folder: own, server: { id: 'server_1', cluster: 'local' }, linkFolders: [] },
          objects: watched(FolderStore.create(join(own, 'objects')), faults.watch),
          gateway: { host: '127.0.0.1', port: 0 },
        }
        return routesOf(parts).filter((module) => !baseRoutes.includes(module))
      },
    })
    client = new Client({ url: service.url, token: service.ownerKey })
    for (const { needs } of Object.values(deeds)) await needs?.(client)
  })
  afterEach(() => faults.disarm())
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    // Nothing here looks after deployments, so nothing was started.
    expect(readdirSync(join(folder, databases.kind, 'replicas', 'runs'))).toEqual([])
  })

  let count = 0
  for (const [what, { act, isThere }] of Object.entries(deeds))
    for (const fault of ['refused', 'unanswered', 'dead'] as const)
      test(`${what} that was acknowledged is there, and can be asked for again, when a call of database or objects is ${fault}`, async () => {
        const acknowledged: (readonly [string, string | undefined, number])[] = []
        for (const _ of faults.each(fault)) {
          const index = count++
          const name = `n${index}`
          const known = await act(client, name, index).catch((error: unknown) => {
            // A fault is answered as an error of the service, never as a success.
            expect(error).toMatchObject({
              name: 'Refused',
              code: expect.stringMatching(/internal|unavailable/),
            })
            return false as const
          })
          faults.disarm()
          if (known !== false) acknowledged.push([name, known, index])
          else
            await act(client, name, index).then(
              (again) => acknowledged.push([name, again, index]),
              (error: unknown) => expect(error).toSatisfy(isDone),
            )
        }
        expect(acknowledged.length).toBeGreaterThan(1)
        for (const [name, known, index] of acknowledged)
          expect([name, await isThere(client, name, known, index)]).toEqual([name, true])
      })
})
