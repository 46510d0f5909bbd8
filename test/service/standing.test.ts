import { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { endpoint } from '../../src/api/control/endpoint.ts'
import { createKey, revokeKey } from '../../src/api/control/keys.ts'
import { removeProjectMember, setProjectMember } from '../../src/api/control/projects.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { addMember, startService } from './running.ts'

const params = { project: 'default' }
const ticks = endpoint({
  name: 'test.ticks',
  method: 'GET',
  path: '/projects/:project/ticks',
  summary: 'Numbers without an end.',
  access: 'job:create',
  answer: 'events',
})
const bytes = endpoint({ ...ticks, name: 'test.bytes', path: '/projects/:project/bytes', answer: 'bytes' })

async function* countUp(gone: AbortSignal) {
  for (let count = 0; !gone.aborted; count++) {
    yield { count }
    await delay(2)
  }
}

async function open(databases: TestDatabases) {
  return await startService(databases, {
    askAgainMs: 10,
    routes: () => [
      (serve) => {
        serve(ticks, async ({ gone }) => countUp(gone))
        serve(bytes, async () => ({
          stream: Readable.from(
            (async function* () {
              for (;;) {
                yield Buffer.from('more')
                await delay(2)
              }
            })(),
          ),
          headers: { 'content-type': 'application/octet-stream' },
        }))
      },
    ],
  })
}

/** Reads a while, then has something happen, then reads to the end. */
async function readOn(events: AsyncIterable<unknown>, happens: () => Promise<unknown>): Promise<number> {
  let count = 0
  for await (const _ of events) if (++count === 20) await happens()
  return count
}

onEveryDatabase((databases) => {
  test('who follows a stream hears its end, and why, once their key is revoked', async () => {
    await using service = await open(databases)
    const { key, id } = await service.owner.call(createKey, { params, body: { name: 'ci' } })
    const following = readOn(service.as(key).events(ticks, { params }), () =>
      service.owner.call(revokeKey, { params: { ...params, key: id } }),
    )
    await expect(following).rejects.toMatchObject({ code: 'unauthenticated' })
  })

  test('a member who was removed, or may less now, reads no further', async () => {
    await using service = await open(databases)
    const ada = await addMember(service, 'ada', 'develop')
    const them = { ...params, person: ada.email }
    const lowered = readOn(ada.events(ticks, { params }), () =>
      service.owner.call(setProjectMember, { params: them, body: { role: 'guest' } }),
    )
    await expect(lowered).rejects.toMatchObject({ code: 'forbidden' })
    await service.owner.call(setProjectMember, { params: them, body: { role: 'develop' } })
    const removed = readOn(ada.events(ticks, { params }), () =>
      service.owner.call(removeProjectMember, { params: them }),
    )
    await expect(removed).rejects.toMatchObject({ code: 'not_found' })
  })

  test('a download breaks off for a key that was revoked', async () => {
    await using service = await open(databases)
    const { key, id } = await service.owner.call(createKey, { params, body: { name: 'ci' } })
    const { body } = await service.as(key).bytes(bytes, { params })
    const read = async () => {
      for await (const _ of body as unknown as AsyncIterable<Uint8Array>)
        await service.owner.call(revokeKey, { params: { ...params, key: id } }).catch(() => undefined)
    }
    await expect(read()).rejects.toThrow()
  })
})
