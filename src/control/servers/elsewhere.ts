/** What only the server of one machine can answer, because its files are there: asked of that server. */
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Refused } from '../../api/control/problem.ts'
import { messageOf } from '../../base/errors.ts'
import { goneSignal } from '../../http/gone.ts'
import type { Store } from '../store/store.ts'
import { isGone, serverOf } from './servers.ts'

/** Thrown by a handler, before it has answered: this cluster's server is to be asked instead. */
export class OnAnotherServer extends Error {
  override name = 'OnAnotherServer'
  readonly cluster: string

  constructor(cluster: string) {
    super(`this is on ${cluster}`)
    this.cluster = cluster
  }
}

/** Set on what was passed on, so that it is not passed on again. */
const passedHeader = 'x-ropeway-passed-on'
const sent = ['authorization', 'cookie', 'accept'] as const
const kept = [
  'content-type',
  'content-length',
  'cache-control',
  'content-range',
  'content-disposition',
] as const

/** Asks the cluster's server the same, as the same person, and passes its answer on as it comes. Of GET only. */
export async function answerElsewhere(
  store: Store,
  request: FastifyRequest,
  reply: FastifyReply,
  { cluster }: OnAnotherServer,
): Promise<unknown> {
  const url = await addressOf(store, cluster, request)
  let answer: Response
  try {
    answer = await fetch(url, {
      headers: { ...picked(request.headers, sent), [passedHeader]: '1' },
      signal: goneSignal(reply.raw),
      redirect: 'error',
    })
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
    throw unavailable(`This is on ${cluster}, whose server does not answer: ${messageOf(cause)}.`)
  }
  reply.status(answer.status).headers(picked(Object.fromEntries(answer.headers), kept))
  if (answer.body === null) return await reply.send()
  return await reply.send(Readable.fromWeb(answer.body as ReadableStream))
}

async function addressOf(store: Store, cluster: string, request: FastifyRequest): Promise<string> {
  const server = await serverOf(store, cluster)
  if (server === undefined || request.headers[passedHeader] !== undefined || request.method !== 'GET')
    throw unavailable(`This is on ${cluster}, which no server of this database looks after.`)
  const silentMs = store.clock.unixMs() - server.seen_at
  if (isGone(server, store.clock.unixMs()))
    throw unavailable(
      `This is on ${cluster}, whose server was last seen ${Math.round(silentMs / 1000)} s ago.`,
    )
  return server.url + request.raw.url
}

function unavailable(message: string): Refused {
  return new Refused('unavailable', message, {
    fix: 'Try again when it is back; `ropeway cluster list` shows when each was last seen.',
  })
}

function picked(
  headers: Readonly<Record<string, unknown>>,
  names: readonly string[],
): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => (typeof headers[name] === 'string' ? [[name, headers[name]]] : [])),
  )
}
