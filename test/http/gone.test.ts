import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { expect, test } from 'vitest'
import { goneSignal } from '../../src/http/gone.ts'

/** An answer that nobody has given yet, and its client. */
async function asked() {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  client.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
  const [, response] = (await once(server, 'request')) as [unknown, ServerResponse]
  return {
    client,
    response,
    [Symbol.dispose]: () => {
      client.destroy()
      server.close()
    },
  }
}

test('a client that leaves is gone for who asks before, and for who asks after it has left', async () => {
  using exchange = await asked()
  const before = goneSignal(exchange.response)
  expect(before.aborted).toBe(false)
  exchange.client.destroy()
  await once(exchange.response, 'close')
  expect(before.aborted).toBe(true)
  expect(goneSignal(exchange.response).aborted).toBe(true)
})

test('a client that has its whole answer is not gone', async () => {
  using exchange = await asked()
  const signal = goneSignal(exchange.response)
  exchange.response.end('all of it')
  await once(exchange.response, 'close')
  expect(signal.aborted).toBe(false)
  expect(goneSignal(exchange.response).aborted).toBe(false)
})
