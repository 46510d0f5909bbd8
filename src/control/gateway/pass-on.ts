/** Requests for deployments whose machine has a server, and so a gateway, of its own: passed on as they are. */
import { pipeline } from 'node:stream/promises'
import type { Exchange } from '../../http/exchange.ts'
import { Problem } from '../../http/problem.ts'
import type { Deployment } from './replicas.ts'
import { ReplicaLost, type Upstreams } from './upstream.ts'

/** Set on what was passed on, so that it is not passed on again. */
const passedHeader = 'x-ropeway-passed-on'
const sent = ['authorization', 'accept', 'user-agent'] as const
/** Headers of the answer that are about the connection it came by. */
const ofConnection = new Set(['connection', 'keep-alive', 'transfer-encoding', 'x-request-id'])

/**
 * True when the gateway of its machine has answered: there its usage is counted and its requests are logged. False when
 * it is to be answered here: it belongs here, or its own gateway is gone and its replicas can be reached without it.
 * Throws 503 when neither is so.
 */
export async function passedOn(
  upstreams: Upstreams,
  exchange: Exchange,
  path: string,
  body: Readonly<Record<string, unknown>>,
  { name, home, versions }: Deployment,
): Promise<boolean> {
  if (home === undefined || exchange.header(passedHeader) !== undefined) return false
  const canAnswerHere = versions.some(({ replicas }) => replicas.some(({ state }) => state === 'ready'))
  if (home.url === undefined) {
    if (canAnswerHere) return false
    throw gone(name, home.cluster, 'its server is not there')
  }
  try {
    const replica = { id: home.cluster, url: home.url, state: 'ready' as const }
    const headers = Object.fromEntries(
      sent.flatMap((header) => {
        const value = exchange.header(header)
        return value === undefined ? [] : [[header, value]]
      }),
    )
    const answer = await upstreams.post(replica, path, Buffer.from(JSON.stringify(body)), {
      headers: { ...headers, [passedHeader]: '1', 'x-request-id': exchange.id },
      signal: exchange.signal,
      whole: body.stream !== true,
    })
    const kept = Object.entries(answer.headers).filter(([header]) => !ofConnection.has(header))
    exchange.response.writeHead(answer.statusCode ?? 502, Object.fromEntries(kept) as Record<string, string>)
    await pipeline(answer, exchange.response)
    return true
  } catch (error) {
    if (exchange.signal.aborted) return true
    if (exchange.response.headersSent) {
      // Half an answer is none: the client sees that the connection broke.
      exchange.response.destroy()
      return true
    }
    if (!(error instanceof ReplicaLost)) throw error
    if (error.unreachable && canAnswerHere) return false
    throw gone(name, home.cluster, error.message)
  }
}

function gone(name: string, cluster: string, why: string): Problem {
  return new Problem(
    503,
    'machine_gone',
    `The deployment ${name} runs on ${cluster}, which cannot be reached: ${why}. Retry in 5 s.`,
    { headers: { 'retry-after': '5' } },
  )
}
