import type { IncomingMessage } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import type { Clock } from '../../base/clock.ts'
import { EventStream } from '../../http/events.ts'
import type { HttpLimits } from '../../http/limits.ts'
import { Problem } from '../../http/problem.ts'
import type { Call } from './call.ts'
import type { Hold } from './hold.ts'
import type { AdapterLoads } from './late-models.ts'
import type { GatewayMetrics } from './metrics.ts'
import { type Chunk, type ChunkUsage, Progress } from './progress.ts'
import type { Replica, ReplicaTable, Version } from './replicas.ts'
import type { Roster } from './roster.ts'
import { ReplicaLost, type Upstreams } from './upstream.ts'

export interface RelayLimits {
  /** Replicas asked for one request. */
  attemptsMax: number
  /** How long a request looks for a replica that goes on with it, since the last one failed. */
  failoverMs: number
  /** The first pause when all replicas were tried; each further one is twice as long, up to a second. */
  pauseMs: number
}

export const relayLimits: RelayLimits = { attemptsMax: 12, failoverMs: 30_000, pauseMs: 50 }

export interface RelayPorts {
  readonly table: ReplicaTable
  readonly roster: Roster
  readonly upstreams: Upstreams
  readonly hold: Hold
  readonly metrics: GatewayMetrics
  readonly clock: Clock
  readonly limits: HttpLimits & RelayLimits
  readonly loads?: AdapterLoads
}

/** Why an attempt is to be made elsewhere; what the client hears when there is no elsewhere. */
class TryElsewhere {
  readonly problem: Problem
  /** The replica said no, and is well: no mark against it. */
  readonly isBusy: boolean
  readonly unreachable: boolean

  constructor(problem: Problem, kind: 'busy' | 'failed' | 'unreachable') {
    this.problem = problem
    this.isBusy = kind === 'busy'
    this.unreachable = kind === 'unreachable'
  }
}

/** Errors inside a stream that another replica may not have. */
const movableCodes = new Set(['aborted', 'engine_unavailable', 'shutting_down', 'device'])

/**
 * Answers one request by way of a replica, and of others when that one fails.
 *
 * Until text was passed on, a request is simply asked again. Behind some text, another replica is given the
 * tokens so far and goes on (progress.ts): the same model, prompt and seed give the same tokens, so the client
 * sees a pause. What a replica refuses because of what was asked is passed on as it is.
 */
export class Relay {
  readonly #call: Call
  readonly #ports: RelayPorts
  readonly #progress = new Progress()
  #events: EventStream | undefined
  #replica: Replica | undefined
  #head: Pick<Chunk, 'id' | 'created'> | undefined
  readonly #opened = new Set<number>()
  #isTaken = false
  #firstTextMs: number | undefined

  constructor(call: Call, ports: RelayPorts) {
    this.#call = call
    this.#ports = ports
  }

  /** Throws the {@link Problem} that the client is to see, unless it heard of it inside its stream. */
  async run(): Promise<void> {
    try {
      await this.#untilAnswered()
    } catch (error) {
      if (this.#events === undefined || !(error instanceof Problem)) throw error
      this.#events.fail(error)
      throw new StreamFailed(error)
    }
  }

  async #untilAnswered(): Promise<void> {
    const { attemptsMax, failoverMs, pauseMs } = this.#ports.limits
    const { deployment, exchange } = this.#call
    const tried = new Set<string>()
    let deadlineMs = this.#ports.clock.nowMs() + failoverMs
    for (let attempt = 0, pauses = 0; ; attempt++) {
      const replica = await this.#nextReplica(tried)
      this.#replica = replica
      const had = this.#progress.tokenCount
      const failure = await this.#attempt(replica)
      if (failure === undefined || exchange.signal.aborted) return
      this.#marked(replica, failure)
      // A stream that gets on, replica by replica, is not at the end of its chances.
      if (this.#progress.tokenCount > had) [deadlineMs, attempt] = [this.#ports.clock.nowMs() + failoverMs, 0]
      if (!this.#progress.isEmpty && !this.#progress.resumable) throw failure.problem
      if (attempt + 1 >= attemptsMax || this.#ports.clock.nowMs() > deadlineMs) throw failure.problem
      this.#ports.metrics.sentAgain(deployment.name, this.#progress.isEmpty ? 'retry' : 'failover')
      tried.add(replica.id)
      if (this.#hasUntried(tried)) continue
      // All have said that they are busy: their answer is the answer.
      if (failure.isBusy) throw failure.problem
      tried.clear()
      await pause(Math.min(1000, pauseMs * 2 ** pauses++), undefined, { signal: exchange.signal }).catch(
        () => {},
      )
      if (exchange.signal.aborted) return
    }
  }

  /** The version as it is now: replicas come and go while a request runs. */
  get #version(): Version {
    const { deployment, version } = this.#call
    const now = this.#ports.table.current.deployments.find(({ name }) => name === deployment.name)
    return now?.versions.find(({ id }) => id === version.id) ?? version
  }

  get #whose() {
    const { deployment, version } = this.#call
    return { deployment: deployment.name, version: version.id, replica: this.#replica!.id }
  }

  #hasUntried(tried: ReadonlySet<string>): boolean {
    return this.#version.replicas.some(({ id, state }) => state === 'ready' && !tried.has(id))
  }

  async #nextReplica(tried: ReadonlySet<string>): Promise<Replica> {
    const { roster, hold } = this.#ports
    const { deployment, prompt, streams, exchange } = this.#call
    const find = () =>
      roster.choose(this.#version, prompt, tried) ?? roster.choose(this.#version, prompt, new Set())
    let found = find()
    if (found !== undefined) return found
    const say = (progress: string) => {
      if (streams) this.#open({}).comment(`waiting: ${progress}`)
    }
    await hold.until(deployment.name, () => (found = find()) !== undefined, exchange.signal, say)
    return found!
  }

  /** Undefined when the client has its answer. */
  async #attempt(replica: Replica): Promise<TryElsewhere | undefined> {
    const { exchange, path, streams, prompt } = this.#call
    const { roster, upstreams } = this.#ports
    const over = roster.begin(replica, prompt)
    const parting = upstreams.parting(replica, this.#call.id, exchange.signal)
    let response: IncomingMessage | undefined
    try {
      const ask = async () =>
        await upstreams.post(replica, path, this.#bytes(await this.#loaded(replica, parting.signal)), {
          headers: this.#headers,
          signal: parting.signal,
          whole: !streams,
        })
      response = await ask()
      if (response.statusCode === 404 && this.#call.adapter !== undefined) {
        // It made room for others since it was loaded.
        response.destroy()
        this.#ports.loads?.forget(replica.id, this.#call.adapter)
        response = await ask()
      }
      if (response.statusCode !== 200) return await this.#refused(response)
      this.#taken(response)
      return streams ? await this.#relayStream(response) : await this.#relayAnswer(response)
    } catch (error) {
      if (exchange.signal.aborted) return undefined
      if (!(error instanceof ReplicaLost)) throw error
      const problem = new Problem(
        502,
        'replica_lost',
        'The replica that computed this request was lost, and no other took it over.',
      )
      return new TryElsewhere(problem, error.unreachable ? 'unreachable' : 'failed')
    } finally {
      over()
      parting.over()
      // An answer that is left unread would keep its connection.
      if (response !== undefined && !response.complete) response.destroy()
    }
  }

  get #headers() {
    const { exchange, caller, id } = this.#call
    return {
      'x-request-id': exchange.id,
      'x-ropeway-tenant': tenantOf(caller.key),
      'x-ropeway-call': id,
      ...(exchange.header('x-ropeway-queue') === '1' && { 'x-ropeway-queue': '1' }),
    }
  }

  /** The replica's name of the adapter that is asked for; undefined where it is the model itself. */
  async #loaded(replica: Replica, signal: AbortSignal): Promise<string | undefined> {
    const { adapter } = this.#call
    return adapter === undefined ? undefined : await this.#ports.loads!.load(replica, adapter, signal)
  }

  #bytes(model: string | undefined): Buffer {
    const { body, choices } = this.#call
    const continuation = this.#progress.isEmpty
      ? undefined
      : { ropeway_continue: this.#progress.continuation(choices) }
    return Buffer.from(JSON.stringify({ ...body, ...(model !== undefined && { model }), ...continuation }))
  }

  #marked(replica: Replica, failure: TryElsewhere): void {
    if (failure.isBusy) return
    if (this.#ports.roster.failed(replica.id, failure.unreachable)) this.#ports.metrics.ejected()
  }

  #taken(response: IncomingMessage): void {
    const { bill, arrivedMs } = this.#call
    const promptTokens = Number(response.headers['x-ropeway-prompt-tokens'])
    if (promptTokens > 0) bill.update({ prompt: promptTokens })
    if (!this.#isTaken) this.#ports.metrics.taken(this.#whose, this.#ports.clock.nowMs() - arrivedMs)
    this.#isTaken = true
  }

  /** A replica's refusal: of another kind of replica, of the moment, or of the request itself. */
  async #refused(response: IncomingMessage): Promise<TryElsewhere | undefined> {
    const status = response.statusCode ?? 502
    const { code, message, param } = errorOf(await this.#ports.upstreams.text(response))
    const retryAfter = response.headers['retry-after']
    const headers = retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) }
    if (status === 429) return new TryElsewhere(new Problem(429, code, message, { headers }), 'busy')
    if (status === 503) return new TryElsewhere(new Problem(503, code, message, { headers }), 'failed')
    if (status >= 500) return new TryElsewhere(new Problem(502, code, message), 'failed')
    if (status === 401 || status === 403 || status === 404) {
      const problem = new Problem(
        502,
        'replica_misconfigured',
        `A replica refused the gateway itself (${status} ${code}).`,
      )
      return new TryElsewhere(problem, 'failed')
    }
    // A continuation that is refused is our own mistake; what was asked first was taken.
    if (!this.#progress.isEmpty) return new TryElsewhere(new Problem(502, code, message), 'failed')
    throw new Problem(status, code, message, { param, headers })
  }

  async #relayAnswer(response: IncomingMessage): Promise<undefined> {
    const { exchange, bill, named, version } = this.#call
    const { upstreams, roster, metrics, clock } = this.#ports
    const text = await upstreams.text(response)
    const answer = parsed(text) as Chunk
    roster.succeeded(this.#replica!.id)
    this.#call.record?.add(answer)
    if (answer.usage != null) bill.update(tokensOf(answer.usage))
    bill.settle()
    const ms = clock.nowMs() - this.#call.arrivedMs
    metrics.laterTokens(this.#whose, answer.usage?.completion_tokens ?? 0, ms)
    if (exchange.signal.aborted) return
    exchange.json(200, { ...answer, model: named }, headersFrom(response, version))
  }

  async #relayStream(response: IncomingMessage): Promise<TryElsewhere | undefined> {
    const { roster, upstreams } = this.#ports
    const events = this.#open(headersFrom(response, this.#call.version))
    let failure: TryElsewhere | undefined
    let isDone = false
    await upstreams.events(response, ({ data, comment }) => {
      if (data === undefined) {
        if (comment.startsWith('queue ')) events.comment(comment)
        return undefined
      }
      if (data === '[DONE]') {
        roster.succeeded(this.#replica!.id)
        this.#complete(events)
        isDone = true
        return 'last'
      }
      const chunk = parsed(data) as Chunk
      if (chunk.error !== undefined) {
        if (chunk.usage != null) this.#call.bill.update(tokensOf(chunk.usage))
        failure = failureIn(chunk.error)
        return 'stop'
      }
      this.#pass(chunk, events)
      return undefined
    })
    if (!isDone && failure === undefined) throw new ReplicaLost('its stream ended early', false)
    return failure
  }

  /** Passes a chunk on as if one server had sent them all, without what only we asked for. */
  #pass(chunk: Chunk, events: EventStream): void {
    const { bill, named, wantsUsage } = this.#call
    if (this.#isRepeatedOpening(chunk)) return
    this.#call.record?.add(chunk)
    if (this.#progress.take(chunk)) this.#heardText()
    this.#head ??= {
      ...(chunk.id !== undefined && { id: chunk.id }),
      ...(chunk.created !== undefined && { created: chunk.created }),
    }
    const isLast = chunk.choices?.some(({ finish_reason }) => finish_reason != null) === true
    bill.update(chunk.usage == null ? { output: this.#progress.tokenCount } : tokensOf(chunk.usage))
    // The client may take this for the end of its answer: it has to be on file by then.
    if (isLast) bill.flush()
    const isUsage = chunk.usage != null && chunk.choices?.length === 0
    if (isUsage && !wantsUsage) return
    for (const choice of chunk.choices ?? []) delete choice.ropeway_tokens
    const { usage, ...rest } = chunk
    events.send({ ...rest, ...this.#head, model: named, ...(wantsUsage && { usage: usage ?? null }) })
  }

  /** A chat's choice opens with its role: once, whatever happens behind it. */
  #isRepeatedOpening({ choices = [] }: Chunk): boolean {
    const opening = choices.filter(
      ({ delta, finish_reason }) => delta?.role !== undefined && !delta.content && finish_reason == null,
    )
    if (opening.length === 0 || opening.length < choices.length) return false
    const isRepeated = opening.every(({ index }) => this.#opened.has(index))
    for (const { index } of opening) this.#opened.add(index)
    return isRepeated
  }

  #heardText(): void {
    if (this.#firstTextMs !== undefined) return
    this.#firstTextMs = this.#ports.clock.nowMs()
    this.#ports.metrics.firstText(this.#whose, this.#firstTextMs - this.#call.arrivedMs)
  }

  #complete(events: EventStream): void {
    const { bill } = this.#call
    bill.settle()
    const { metrics, clock } = this.#ports
    if (this.#firstTextMs !== undefined) {
      metrics.laterTokens(this.#whose, bill.tokens.output - 1, clock.nowMs() - this.#firstTextMs)
    }
    events.done()
  }

  /** The client's stream, opened when there is first something to say. */
  #open(headers: Readonly<Record<string, string>>): EventStream {
    this.#events ??= new EventStream(this.#call.exchange, this.#ports.limits, headers)
    return this.#events
  }
}

/** The client heard of the problem inside its stream; nothing more can be sent. */
export class StreamFailed extends Error {
  override name = 'StreamFailed'
  readonly problem: Problem

  constructor(problem: Problem) {
    super(problem.message)
    this.problem = problem
  }
}

function failureIn({ code, message }: { code?: string | null; message?: string }): TryElsewhere {
  const problem = new Problem(502, code ?? 'replica_failed', message ?? 'The replica failed.')
  if (!movableCodes.has(problem.code)) throw problem
  return new TryElsewhere(problem, 'failed')
}

function errorOf(text: string): { code: string; message: string; param?: string } {
  try {
    const { error } = JSON.parse(text) as { error?: { code?: unknown; message?: unknown; param?: unknown } }
    const { code = 'replica_failed', message = 'The replica refused.', param } = error ?? {}
    return { code: String(code), message: String(message), ...(typeof param === 'string' && { param }) }
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    return { code: 'replica_failed', message: 'The replica gave an answer that is not JSON.' }
  }
}

function parsed(text: string): object {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
  }
  throw new ReplicaLost('it sent what is not JSON', false)
}

function tokensOf({ prompt_tokens, completion_tokens, prompt_tokens_details }: ChunkUsage) {
  return {
    prompt: prompt_tokens,
    output: completion_tokens ?? 0,
    cached: prompt_tokens_details?.cached_tokens ?? 0,
  }
}

/** What a client may know of a replica's answer. */
function headersFrom({ headers }: IncomingMessage, version: Version): Record<string, string> {
  const queue = Object.entries(headers).filter(([name]) => name.startsWith('x-ropeway-queue-'))
  return {
    ...Object.fromEntries(queue.map(([name, value]) => [name, String(value)])),
    'x-ropeway-version': version.id,
  }
}

/** A replica takes tenants in these characters; fairness and prefix sharing are per tenant. */
function tenantOf(key: string): string {
  return /^[\w.:-]{1,128}$/.test(key) ? key : Buffer.from(key).toString('hex').slice(0, 128)
}
