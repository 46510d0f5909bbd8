/** Connections to replicas, against servers of bytes that close them when they are taken up again. */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { ReplicaLost, Upstreams } from '../../src/control/gateway/upstream.ts'

const signal = new AbortController().signal
let server: Server
let upstreams: Upstreams

afterEach(() => {
  upstreams.close()
  server.closeAllConnections()
  server.close()
})

/** Answers once per connection, and closes one that asks again. */
async function forgetful(delayMs: number) {
  const seen = new WeakSet()
  server = createServer((request, response) => {
    if (seen.has(request.socket)) request.socket.destroy()
    else setTimeout(() => response.end('fresh'), delayMs)
    seen.add(request.socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  upstreams = new Upstreams()
  return { id: 'one', url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` } as never
}

describe('a connection that was closed when it is taken up again', () => {
  test('costs nothing, however many there are and whatever is asked', async () => {
    const replica = await forgetful(20)
    const ask = () => upstreams.get(replica, '/v1/load', signal)
    expect(await Promise.all([ask(), ask(), ask(), ask()])).toEqual(Array(4).fill('fresh'))
    // Four are kept, and each of them is dead.
    expect(await ask()).toBe('fresh')
    expect(await upstreams.remove(replica, '/v1/calls/x', signal)).toBe(true)
    const options = { headers: {}, signal, whole: true }
    const response = await upstreams.post(replica, '/v1/completions', Buffer.from('{}'), options)
    expect(await upstreams.text(response)).toBe('fresh')
  })

  test('of a replica that is gone is told as that', async () => {
    const replica = await forgetful(20)
    const ask = () => upstreams.get(replica, '/v1/load', signal)
    await Promise.all([ask(), ask()])
    server.close()
    await expect(ask()).rejects.toThrow(ReplicaLost)
  })
})
