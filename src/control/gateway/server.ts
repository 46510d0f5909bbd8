import { randomInt, randomUUID } from 'node:crypto'
import type { Server } from 'node:http'
import { type Dialect, dialects } from '../../api/dialects.ts'
import { requestLimits } from '../../api/limits.ts'
import type { Model, ModelList } from '../../api/models.ts'
import { type Clock, systemClock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { createLogger, type Logger } from '../../base/log.ts'
import { deriveSeed, Random } from '../../base/random.ts'
import { readJson } from '../../http/body.ts'
import type { Exchange } from '../../http/exchange.ts'
import { type HttpLimits, httpLimits } from '../../http/limits.ts'
import { Origins } from '../../http/origins.ts'
import { Problem } from '../../http/problem.ts'
import { type Route, Router } from '../../http/router.ts'
import { HttpServer } from '../../http/server.ts'
import { checked } from '../service/checked.ts'
import { AnswerRecord } from './answer-record.ts'
import { type Budget, Budgets, type Price } from './budgets.ts'
import { bodyFor, type Call, checkedBody, choicesOf, mostOf, shapeOf, wantsUsage } from './call.ts'
import { GaugePoller } from './gauges.ts'
import { Hold, type HoldLimits, holdLimits, type Wake } from './hold.ts'
import { anonymousCaller, type Caller, callerOf, type KeyVerifier, keyMissing } from './keys.ts'
import type { AdapterLoads, LateModel, LateModels } from './late-models.ts'
import type { Ledger } from './ledger.ts'
import { GatewayMetrics, type Outcome } from './metrics.ts'
import { passedOn } from './pass-on.ts'
import { RateLimits } from './rate-limits.ts'
import { Relay, type RelayLimits, type RelayPorts, relayLimits, StreamFailed } from './relay.ts'
import {
  type Deployment,
  type Fleet,
  findTarget,
  modelNames,
  type ReplicaTable,
  type Target,
} from './replicas.ts'
import { type DeploymentReport, reportOf, windowSecondsMax } from './report.ts'
import type { RequestLog } from './request-log.ts'
import { Roster, type RosterLimits } from './roster.ts'
import { Shadow } from './shadow.ts'
import { versionFor } from './shares.ts'
import { type UpstreamLimits, Upstreams, upstreamLimits } from './upstream.ts'
import type { UsageSums } from './usage-sums.ts'

export interface GatewayLimits extends HttpLimits, RelayLimits, HoldLimits, UpstreamLimits {
  /** So often the gauges of replicas are asked for. */
  gaugesMs: number
  /** So often the tokens of open streams are written down. */
  ledgerMs: number
}

export const gatewayLimits: GatewayLimits = {
  ...httpLimits,
  ...relayLimits,
  ...holdLimits,
  ...upstreamLimits,
  connectionsMax: 8192,
  gaugesMs: 1000,
  ledgerMs: 1000,
}

export interface GatewayOptions {
  table: ReplicaTable
  ledger: Ledger
  /** Without one everybody may ask everything. */
  verify?: KeyVerifier
  budgets?: () => readonly Budget[]
  prices?: () => readonly Price[]
  /** What was used at other gateways; budgets count it too. */
  elsewhere?: () => Pick<UsageSums, 'used'>
  /** Called when a request waits for a deployment that has no ready replica. */
  wake?: Wake
  /** Models that are found by name when somebody asks for them, and what loads them. */
  late?: LateModels
  loads?: AdapterLoads
  /** Where requests of deployments that are `logged` are written down. */
  requestLog?: RequestLog
  origins?: readonly string[]
  limits?: Partial<GatewayLimits>
  roster?: Partial<RosterLimits>
  clock?: Clock
  seed?: number
  log?: Logger
}

const otherWays = dialects(requestLimits)

interface Asked {
  readonly exchange: Exchange
  readonly path: Call['path']
  readonly known: Caller | undefined
  readonly body: ReturnType<typeof checkedBody>
  readonly target: Target & { readonly late?: LateModel }
  readonly arrivedMs: number
}

/** OpenAI's API for all deployments under one address. */
export class Gateway {
  readonly metrics: GatewayMetrics
  readonly roster: Roster
  readonly #options: GatewayOptions
  readonly #limits: GatewayLimits
  readonly #clock: Clock
  readonly #log: Logger
  readonly #rates: RateLimits
  readonly #budgets: Budgets
  readonly #upstreams: Upstreams
  readonly #http: HttpServer
  readonly #ports: RelayPorts
  readonly #poller: GaugePoller
  readonly #shadow: Shadow
  readonly #flushing: NodeJS.Timeout
  readonly #forgetTable: () => void
  #draining = false

  constructor(options: GatewayOptions) {
    const { table, wake = () => undefined } = options
    this.#options = options
    this.#limits = { ...gatewayLimits, ...options.limits }
    this.#clock = options.clock ?? systemClock
    this.#log = options.log ?? createLogger('gateway')
    this.metrics = new GatewayMetrics(this.#clock)
    this.roster = new Roster(this.#clock, options.seed ?? randomInt(2 ** 47), options.roster)
    this.#rates = new RateLimits(this.#clock)
    const { ledger, budgets = () => [], prices = () => [], elsewhere } = options
    const sums = () => (elsewhere === undefined ? [ledger.sums] : [ledger.sums, elsewhere()])
    this.#budgets = new Budgets({ budgets, prices, sums, clock: this.#clock })
    this.#upstreams = new Upstreams(this.#limits)
    this.#ports = {
      table,
      roster: this.roster,
      upstreams: this.#upstreams,
      hold: new Hold(table, wake, this.#limits),
      metrics: this.metrics,
      clock: this.#clock,
      limits: this.#limits,
      ...(options.loads && { loads: options.loads }),
    }
    this.#shadow = new Shadow(
      this.#ports,
      new Random(deriveSeed(options.seed ?? randomInt(2 ** 47), 'shadow')),
    )
    const handle = this.#dispatcher(new Origins(options.origins))
    this.#http = new HttpServer({
      limits: this.#limits,
      handle,
      onError: (error, { id }) => this.#log.error({ err: error, request: id }, 'a request failed by a bug'),
    })
    this.#poller = new GaugePoller(table, this.roster, this.#upstreams, this.#limits.gaugesMs)
    // Neither keeps a process alive that never came to listen.
    this.#flushing = setInterval(() => this.#flush(), this.#limits.ledgerMs).unref()
    this.#forgetTable = table.onChange((fleet) => {
      this.roster.retain(fleet)
      this.metrics.retain(fleet)
    })
  }

  get server(): Server {
    return this.#http.server
  }

  /** Resolves to the base URL, without /v1. Port 0 takes a free one. */
  async listen(port: number, host?: string): Promise<string> {
    return await this.#http.listen(port, host)
  }

  /** Refuses what is new, gives what runs `limitMs` to end, then cuts it. The ledger stays open: it is the caller's. */
  async close(limitMs = 30_000): Promise<void> {
    this.#draining = true
    await this.#http.close(limitMs)
    await this.#shadow.close()
    clearInterval(this.#flushing)
    this.#poller.close()
    this.#forgetTable()
    this.#upstreams.close()
  }

  /** A full disk stops answers, which are settled before they end, and not the gateway. */
  #flush(): void {
    try {
      this.#options.ledger.flush()
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      this.#log.error(error.message)
    }
  }

  #dispatcher(origins: Origins): (exchange: Exchange) => Promise<void> {
    const router = new Router(this.#routes())
    return async (exchange) => {
      const method = exchange.request.method ?? 'GET'
      origins.check(exchange)
      if (method === 'OPTIONS' && exchange.header('access-control-request-method') !== undefined) {
        return origins.preflight(exchange)
      }
      const { route, parameters } = router.find(method, exchange.path)
      exchange.parameters = parameters
      await route.handle(exchange, '')
    }
  }

  #routes(): Route[] {
    const answer = (path: Call['path'], dialect?: Dialect): Route => ({
      method: 'POST',
      path: dialect?.path ?? path,
      handle: async (exchange) => await this.#answer(exchange, path, dialect),
    })
    return [
      {
        method: 'GET',
        path: '/health',
        handle: async (exchange) =>
          exchange.json(this.#draining ? 503 : 200, { status: this.#draining ? 'draining' : 'ready' }),
      },
      {
        method: 'GET',
        path: '/metrics',
        handle: async (exchange) => {
          await this.#callerOf(exchange, true)
          exchange.text(200, this.metrics.contentType, await this.metrics.render())
        },
      },
      {
        method: 'GET',
        path: '/v1/deployments/:name/metrics',
        handle: async (exchange) => await this.#report(exchange),
      },
      { method: 'GET', path: '/v1/models', handle: async (exchange) => await this.#listModels(exchange) },
      { method: 'GET', path: '/v1/models/:id', handle: async (exchange) => await this.#showModel(exchange) },
      answer('/v1/completions'),
      answer('/v1/chat/completions'),
      ...otherWays.map((dialect) => answer('/v1/chat/completions', dialect)),
      answer('/v1/embeddings'),
    ]
  }

  /** Latencies and gauges over `?window=SECONDS` (300), for those to whom the deployment belongs. */
  async #report(exchange: Exchange): Promise<void> {
    const caller = await this.#callerOf(exchange, true)
    const { deployment } = this.#find(caller, exchange.parameters.name!)
    if (caller !== undefined && caller.project !== deployment.project)
      throw new Problem(403, 'not_yours', 'Metrics of a deployment are for keys of its own project.')
    const given = new URL(exchange.request.url ?? '/', 'http://gateway').searchParams.get('window') ?? '300'
    const seconds = Number(given)
    if (!(seconds >= 10 && seconds <= windowSecondsMax)) {
      const message = `window: Expected 10 to ${windowSecondsMax} seconds, not '${given.slice(0, 20)}'.`
      throw new Problem(400, 'invalid_value', message, { param: 'window' })
    }
    exchange.json(200, reportOf(deployment, this.metrics, this.roster, seconds * 1000))
  }

  /** The same for whoever runs the gateway; undefined when it knows no such deployment. */
  report(name: string, windowMs: number): DeploymentReport | undefined {
    const deployment = this.#options.table.current.deployments.find((one) => one.name === name)
    return deployment && reportOf(deployment, this.metrics, this.roster, windowMs)
  }

  async #listModels(exchange: Exchange): Promise<void> {
    const data = await this.#modelsOf(await this.#callerOf(exchange, false))
    exchange.json(200, { object: 'list', data } satisfies ModelList)
  }

  async #modelsOf(caller: Caller | undefined): Promise<Model[]> {
    const { deployments } = this.#options.table.current
    const made = deployments
      .filter((deployment) => this.#mayAsk(caller, deployment))
      .flatMap((deployment) => modelNames(deployment).map((id) => describe(id, deployment)))
    const late = caller === undefined ? [] : ((await this.#options.late?.list(caller.project)) ?? [])
    // A deployment often has the name of the model that it serves: one entry, which says what is known of both.
    const others = new Map(late.map((model) => [model.id, model]))
    const named = made.map((model) => ({ ...others.get(model.id), ...model }))
    for (const { id } of made) others.delete(id)
    return [...named, ...others.values()]
  }

  async #showModel(exchange: Exchange): Promise<void> {
    const caller = await this.#callerOf(exchange, false)
    const id = exchange.parameters.id!
    // What is listed can be looked up, bases that jobs start from and nothing answers for too.
    const listed = (await this.#modelsOf(caller)).find((model) => model.id === id)
    exchange.json(200, listed ?? describe(id, (await this.#target(caller, id)).deployment))
  }

  /** `strict`: a caller without a key is refused at once, for no deployment can be public to it. */
  async #callerOf(exchange: Exchange, strict: boolean): Promise<Caller | undefined> {
    const { verify } = this.#options
    if (verify === undefined) return undefined
    const caller = await callerOf(exchange, verify)
    if (strict && caller === undefined) throw keyMissing()
    return caller
  }

  /** What a caller may not ask does not exist for it. */
  #mayAsk(caller: Caller | undefined, deployment: Deployment): boolean {
    return this.#options.verify === undefined || deployment.public || caller?.project === deployment.project
  }

  #find(caller: Caller | undefined, model: string): Target {
    const target = findTarget(this.#options.table.current, model)
    if (target !== undefined && this.#mayAsk(caller, target.deployment)) return target
    if (caller === undefined && this.#options.verify !== undefined) throw keyMissing(model)
    const message = `There is no deployment '${model.slice(0, 100)}' here; GET /v1/models lists those there are.`
    throw new Problem(404, 'model_not_found', message, { param: 'model' })
  }

  /** Also what is found only when it is asked for. */
  async #target(caller: Caller | undefined, model: string): Promise<Asked['target']> {
    const { late, table } = this.#options
    const known = findTarget(table.current, model)
    if (late === undefined || (known !== undefined && this.#mayAsk(caller, known.deployment)))
      return this.#find(caller, model)
    const owner = deploymentNamed(table.current, model.split(':', 1)[0]!)
    const project = owner !== undefined && this.#mayAsk(caller, owner) ? owner.project : caller?.project
    const found = project === undefined ? undefined : await late.find(project, model)
    const deployment = found && deploymentNamed(table.current, found.deployment)
    if (found === undefined || deployment === undefined) return this.#find(caller, model)
    const version = deployment.versions.find(({ id }) => id === found.version)
    return { deployment, late: found, ...(version !== undefined && { version }) }
  }

  async #answer(exchange: Exchange, path: Call['path'], dialect?: Dialect): Promise<void> {
    if (dialect !== undefined) exchange.asked = { dialect }
    if (this.#draining)
      throw new Problem(503, 'shutting_down', 'The gateway is shutting down. Retry in 1 s.', {
        headers: { 'retry-after': '1' },
      })
    const known = await this.#callerOf(exchange, false)
    const leave = this.#rates.admit(known ?? anonymousCaller)
    try {
      const arrivedMs = this.#clock.nowMs()
      const body = checkedBody(await readJson(exchange.request, this.#limits))
      const target = await this.#target(known, body.model)
      if (await passedOn(this.#upstreams, exchange, dialect?.path ?? path, body, target.deployment)) return
      const asked = dialect === undefined ? body : askedAsChat(exchange, body, dialect)
      await this.#relay(this.#callOf({ exchange, path, known, body: asked, target, arrivedMs }))
    } finally {
      leave()
    }
  }

  #callOf({ exchange, path, known, body, target, arrivedMs }: Asked): Call {
    const { ledger } = this.#options
    const { deployment, adapter, late } = target
    const caller = known ?? { ...anonymousCaller, project: deployment.project }
    const able = deployment.versions.filter(
      ({ adapters }) => adapter === undefined || Object.hasOwn(adapters, adapter),
    )
    const version = target.version ?? versionFor(deployment.name, able, stickyOf(body, known, exchange))
    // What another project asks a model that it was lent is not for the eyes of who lends it.
    const isLent = late !== undefined && caller.project !== deployment.project
    const isText = path !== '/v1/embeddings'
    const isRecorded = isText && !isLent && (deployment.logged === true || deployment.shadow !== undefined)
    const part = late?.billed ?? adapter
    const billed = part === undefined ? deployment.name : `${deployment.name}:${part}`
    const sent = bodyFor(path, body, target, version)
    return {
      id: randomUUID(),
      exchange,
      path,
      deployment,
      version,
      caller,
      bill: ledger.begin({ request: exchange.id, project: caller.project, key: caller.key, model: billed }),
      most: mostOf(path, sent),
      arrivedMs,
      named: late?.name ?? body.model,
      ...(late?.adapter !== undefined && { adapter: late.adapter }),
      given: body,
      body: sent,
      ...(isRecorded && { record: new AnswerRecord() }),
      streams: body.stream === true,
      wantsUsage: wantsUsage(body),
      choices: choicesOf(body),
      prompt: shapeOf(body, JSON.stringify([deployment.name, version.id, part, caller.key])),
    }
  }

  async #relay(call: Call): Promise<void> {
    const { exchange, deployment, version, bill, caller } = call
    const giveBack = this.#held(call)
    this.metrics.began(deployment.name)
    let outcome: Outcome = 'failed'
    const answered = this.#copied(call)
    try {
      await new Relay(call, this.#ports).run()
      outcome = exchange.signal.aborted ? 'gone' : 'ok'
    } catch (error) {
      outcome = exchange.signal.aborted ? 'gone' : outcomeOf(error)
      if (!exchange.signal.aborted && !(error instanceof StreamFailed)) throw error
    } finally {
      giveBack()
      if (!bill.settled) bill.settle()
      this.#rates.charge(caller, bill.tokens.prompt + bill.tokens.output)
      this.metrics.ended(deployment.name, version.id, outcome)
      answered(outcome === 'ok' ? call.record : undefined)
      if (outcome === 'ok') this.#logged(call)
    }
  }

  /** Keeps what the request may use from others until the returned call. Throws 429 where its budget allows none. */
  #held({ bill, most }: Call): () => void {
    try {
      return this.#budgets.admit(bill, most)
    } catch (error) {
      bill.settle()
      throw error
    }
  }

  /** Sends a copy to a shadow where there is one; the returned call tells it of the client's answer. */
  #copied(call: Call): (record: AnswerRecord | undefined) => void {
    const version = this.#shadow.draw(call)
    if (version === undefined) return () => {}
    let tell!: (record: AnswerRecord | undefined) => void
    const answered = new Promise<AnswerRecord | undefined>((resolve) => {
      tell = resolve
    })
    this.#shadow.send(call, version, answered)
    return tell
  }

  #logged({ deployment, record, exchange, caller, version, path, given, arrivedMs }: Call): void {
    if (deployment.logged !== true || record === undefined) return
    const ms = Math.round(this.#clock.nowMs() - arrivedMs)
    this.#options.requestLog?.write(deployment.name, {
      ...{ at: this.#clock.unixMs() - ms, request: exchange.id, key: caller.key, version: version.id, path },
      ...{ body: given, answers: record.texts, finishes: record.finishes, ms },
      ...(record.calls.length > 0 && { calls: record.calls }),
    })
  }
}

/** Replicas are asked as for a chat, so that all that holds of one holds here: going on elsewhere, usage, logs, shadows. */
function askedAsChat(exchange: Exchange, given: unknown, dialect: Dialect): Asked['body'] {
  const asked = dialect.asked(checked(dialect.schema, given))
  exchange.asked = { dialect, ...asked }
  return checkedBody(asked.body)
}

function deploymentNamed({ deployments }: Fleet, name: string): Deployment | undefined {
  return deployments.find((deployment) => deployment.name === name)
}

function outcomeOf(error: unknown): Outcome {
  const problem = error instanceof StreamFailed ? error.problem : error
  return problem instanceof Problem && problem.status < 500 ? 'refused' : 'failed'
}

/** Who keeps to one version: a client's user, else a key, else nobody. */
function stickyOf(
  body: Readonly<Record<string, unknown>>,
  caller: Caller | undefined,
  { id }: Exchange,
): string {
  if (typeof body.user === 'string') return JSON.stringify([caller?.key, body.user])
  return caller === undefined ? id : JSON.stringify([caller.key])
}

function describe(id: string, { created }: Deployment): Model {
  return { id, object: 'model', created, owned_by: 'ropeway' }
}
