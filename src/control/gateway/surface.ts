/** The gateway's addresses on the service's own: one base URL for files, fine-tuning and answers. */
import type { Surface } from '../service/surface.ts'
import type { Gateway } from './server.ts'

const addresses = [
  ['POST', '/v1/chat/completions'],
  ['POST', '/v1/responses'],
  ['POST', '/v1/messages'],
  ['POST', '/v1/completions'],
  ['POST', '/v1/embeddings'],
  ['GET', '/v1/models'],
  ['GET', '/v1/models/:id'],
] as const

/** Requests are given to the gateway as they came, before anything of them is read. */
export function gatewaySurface(gateway: Gateway): Surface {
  return (app) => {
    for (const [method, url] of addresses) {
      app.route({
        method,
        url,
        schema: { hide: true } as object,
        onRequest: async (request, reply) => {
          reply.hijack()
          gateway.server.emit('request', request.raw, reply.raw)
        },
        handler: async () => undefined,
      })
    }
  }
}
