import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { endpoint } from '../../src/api/control/endpoint.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { startService } from './running.ts'

const follow = endpoint({
  name: 'tests.follow',
  method: 'GET',
  path: '/follow',
  summary: 'Follows something for as long as the client is there.',
  access: 'public',
  answer: 'nothing',
})

onEveryDatabase((databases) => {
  test('a client that left while it was being admitted is gone for whoever would follow something for it', async () => {
    let answered!: (isGone: boolean) => void
    const isGone = new Promise<boolean>((resolve) => {
      answered = resolve
    })
    let asked!: () => void
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve
    })
    await using service = await startService(databases, {
      routes: () => [(serve) => serve(follow, async ({ gone }) => answered(gone.aborted))],
      surfaces: () => [
        (app) => {
          app.addHook('preHandler', async ({ url }, reply) => {
            if (!url.endsWith(follow.path)) return
            asked()
            await once(reply.raw, 'close')
          })
        },
      ],
    })
    const client = connect(Number(new URL(service.url).port), '127.0.0.1')
    client.write(`GET /api/v1${follow.path} HTTP/1.1\r\nhost: x\r\n\r\n`)
    await isAsked
    client.destroy()
    expect(await isGone).toBe(true)
  })
})
