import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { messageOf } from '../../base/errors.ts'
import type { Replica } from './replicas.ts'

export interface UpstreamLimits {
  /** Longest silence of a replica: on a stream it sends comments more often than this. */
  silenceMs: number
  /** Longest wait for an answer that comes as a whole. */
  answerMs: number
  answerBytesMax: number
  /** One event of a stream. */
  eventCharactersMax: number
  /** Idle connections that are kept to one replica. */
  idleConnectionsMax: number
  /** How long a replica has to say what a cancelled request used, before its connection is cut. */
  cancelMs: number
}

export const upstreamLimits: UpstreamLimits = {
  silenceMs: 45_000,
  answerMs: 1_800_000,
  answerBytesMax: 64 * 1024 * 1024,
  eventCharactersMax: 4 * 1024 * 1024,
  idleConnectionsMax: 256,
  cancelMs: 2000,
}

/** A replica did not answer, or its answer broke off. What it had been asked may be asked of another. */
export class ReplicaLost extends Error {
  override name = 'ReplicaLost'
  /** Nothing listens there: nobody else needs to try. */
  readonly unreachable: boolean

  constructor(message: string, unreachable: boolean) {
    super(message)
    this.unreachable = unreachable
  }
}

const unreachableCodes = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN'])

/** The text behind `data: `, or behind a comment's colon. */
export type StreamEvent = { data: string; comment?: never } | { comment: string; data?: never }

/** `last`: no event is wanted any more, the stream may end. `stop`: it need not. */
export type Verdict = 'last' | 'stop' | undefined

/** Connections to replicas, kept open between requests. */
export class Upstreams {
  readonly #limits: UpstreamLimits
  readonly #http: HttpAgent
  readonly #https: HttpsAgent

  constructor(limits: Partial<UpstreamLimits> = {}) {
    this.#limits = { ...upstreamLimits, ...limits }
    const options = { keepAlive: true, maxFreeSockets: this.#limits.idleConnectionsMax, noDelay: true }
    this.#http = new HttpAgent(options)
    this.#https = new HttpsAgent(options)
  }

  /** Resolves with the head of the answer; throws {@link ReplicaLost}. `whole`: no byte comes before all have. */
  async post(
    replica: Replica,
    path: string,
    body: Buffer,
    options: { headers: Readonly<Record<string, string>>; signal: AbortSignal; whole: boolean },
  ): Promise<IncomingMessage> {
    return await this.#send(replica, path, body, options)
  }

  /** Throws {@link ReplicaLost}. */
  async get(replica: Replica, path: string, signal: AbortSignal): Promise<string> {
    const response = await this.#send(replica, path, undefined, { headers: {}, signal, whole: false })
    const text = await this.text(response)
    if (response.statusCode !== 200) throw new ReplicaLost(`${path} gave ${response.statusCode}`, false)
    return text
  }

  /** Whether there was something to remove. Throws {@link ReplicaLost}. */
  async remove(replica: Replica, path: string, signal: AbortSignal): Promise<boolean> {
    const options = { method: 'DELETE', headers: {}, signal, whole: true } as const
    const response = await this.#send(replica, path, undefined, options)
    await this.text(response)
    return response.statusCode === 200
  }

  /**
   * Aborts when whoever waits is `gone` and the replica has had its time to end the call and say what it used.
   * Cutting the connection at once would leave the tokens in flight unknown. Call `over` when the attempt is over.
   */
  parting(replica: Replica, call: string, gone: AbortSignal): { signal: AbortSignal; over: () => void } {
    const cut = new AbortController()
    let timer: NodeJS.Timeout | undefined
    const part = () => {
      timer = setTimeout(() => cut.abort(), this.#limits.cancelMs)
      void this.#cancelled(replica, call, cut.signal).then((isHeard) => {
        if (!isHeard) cut.abort()
      })
    }
    if (gone.aborted) part()
    else gone.addEventListener('abort', part, { once: true })
    const over = () => {
      clearTimeout(timer)
      gone.removeEventListener('abort', part)
    }
    return { signal: cut.signal, over }
  }

  async #cancelled(replica: Replica, call: string, signal: AbortSignal): Promise<boolean> {
    try {
      const path = `/v1/calls/${encodeURIComponent(call)}`
      const options = { method: 'DELETE', headers: {}, signal, whole: false } as const
      const response = await this.#send(replica, path, undefined, options)
      await this.text(response)
      return response.statusCode === 200
    } catch (error) {
      // It is gone, knows nothing of such calls, or the time is over: the connection is cut, which says the same.
      if (error instanceof ReplicaLost) return false
      throw error
    }
  }

  /** The whole body of an answer; throws {@link ReplicaLost} when it breaks off or is too long. */
  async text(response: IncomingMessage): Promise<string> {
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of chunksOf(response)) {
      bytes += chunk.length
      if (bytes > this.#limits.answerBytesMax) throw new ReplicaLost('its answer is too long', false)
      chunks.push(chunk)
    }
    return Buffer.concat(chunks).toString('utf8')
  }

  /**
   * Gives the events of a stream to `take` as they come and resolves when it has ended, or when `take` says stop.
   * Throws what `take` throws, and {@link ReplicaLost} when the stream breaks off before `take` has said last.
   *
   * Called, not iterated over: thousands of events a second come here, and awaiting each costs more than reading it.
   */
  async events(response: IncomingMessage, take: (event: StreamEvent) => Verdict): Promise<void> {
    const { eventCharactersMax } = this.#limits
    const decoder = new TextDecoder()
    let rest = ''
    let verdict: Verdict
    const read = (bytes: Buffer) => {
      rest += decoder.decode(bytes, { stream: true })
      let from = 0
      for (
        let end = rest.indexOf('\n\n');
        end >= 0 && verdict === undefined;
        end = rest.indexOf('\n\n', from)
      ) {
        const block = rest.slice(from, end)
        from = end + 2
        if (block.startsWith('data: ')) verdict = take({ data: block.slice('data: '.length) })
        else if (block.startsWith(':')) verdict = take({ comment: block.slice(1).trim() })
      }
      rest = rest.slice(from)
      if (rest.length > eventCharactersMax) throw new ReplicaLost('its event is too long', false)
    }
    await new Promise<void>((resolve, reject) => {
      // Behind the last event only the end may come. It is waited for: then the connection can be used again.
      const over = (why?: Error) => {
        if (verdict !== undefined || (why === undefined && response.complete)) resolve()
        else reject(why === undefined ? new ReplicaLost('its answer broke off', false) : lost(why))
      }
      response.on('data', (bytes: Buffer) => {
        if (verdict !== undefined) return
        try {
          read(bytes)
        } catch (error) {
          reject(error)
          verdict = 'stop'
        }
        if (verdict === 'stop') resolve()
      })
      response.once('end', () => over())
      response.once('error', over)
      response.once('close', () => over())
    })
  }

  close(): void {
    this.#http.destroy()
    this.#https.destroy()
  }

  /**
   * A kept connection may have been closed by the other side just when it was taken up again, as all of them are when a
   * replica dies: each such attempt uses up one, until a new one is made. Throws {@link ReplicaLost}.
   */
  async #send(
    replica: Replica,
    path: string,
    body: Buffer | undefined,
    options: SendOptions,
  ): Promise<IncomingMessage> {
    for (let left = this.#limits.idleConnectionsMax; left > 0; left--) {
      try {
        return await this.#attempt(replica, path, body, options)
      } catch (error) {
        if (!(error instanceof StaleConnection)) throw error
      }
    }
    throw new ReplicaLost('it closed every connection', false)
  }

  #attempt(
    replica: Replica,
    path: string,
    body: Buffer | undefined,
    options: SendOptions,
  ): Promise<IncomingMessage> {
    const url = new URL(replica.url + path)
    const secure = url.protocol === 'https:'
    const send = secure ? httpsRequest : httpRequest
    return new Promise((resolve, reject) => {
      const request = send(url, {
        agent: secure ? this.#https : this.#http,
        method: options.method ?? (body === undefined ? 'GET' : 'POST'),
        signal: options.signal,
        headers: {
          ...options.headers,
          ...(body !== undefined && { 'content-type': 'application/json', 'content-length': body.length }),
          ...(replica.key !== undefined && { authorization: `Bearer ${replica.key}` }),
        },
      })
      request.setTimeout(options.whole ? this.#limits.answerMs : this.#limits.silenceMs, () =>
        request.destroy(new ReplicaLost('it has been silent for too long', false)),
      )
      request.once('response', resolve)
      request.on('error', (error: NodeJS.ErrnoException) => {
        const stale = request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
        reject(stale ? new StaleConnection() : lost(error))
      })
      request.end(body)
    })
  }
}

interface SendOptions {
  method?: 'DELETE'
  headers: Readonly<Record<string, string>>
  signal: AbortSignal
  whole: boolean
}

class StaleConnection extends Error {}

function lost(error: NodeJS.ErrnoException): ReplicaLost {
  if (error instanceof ReplicaLost) return error
  return new ReplicaLost(messageOf(error), unreachableCodes.has(error.code ?? ''))
}

/** The body as it comes; any way in which it can break off is {@link ReplicaLost}. */
async function* chunksOf(response: IncomingMessage): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of response) yield chunk as Buffer
  } catch (error) {
    throw lost(error as NodeJS.ErrnoException)
  }
  if (!response.complete) throw new ReplicaLost('its answer broke off', false)
}
