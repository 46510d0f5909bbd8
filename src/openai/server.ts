import type { Server } from 'node:http'
import { requestLimits } from '../api/limits.ts'
import { type Clock, systemClock } from '../base/clock.ts'
import type { UserError } from '../base/errors.ts'
import { createLogger, type Logger } from '../base/log.ts'
import type { Exchange } from '../http/exchange.ts'
import { httpLimits } from '../http/limits.ts'
import { Origins } from '../http/origins.ts'
import { Router } from '../http/router.ts'
import { HttpServer } from '../http/server.ts'
import type { EngineClient } from '../serve/messages.ts'
import type { Pooling } from '../serve/request.ts'
import type { ChatTemplate } from '../tokenizer/chat-template.ts'
import { SpecialSpellings } from '../tokenizer/special-spellings.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type AdapterAccess, adapterRoutes } from './adapters.ts'
import { Authentication, anonymous } from './authentication.ts'
import { Calls, callRoute } from './calls.ts'
import { ConstraintChecks, type RemoteCheck } from './constraint-checks.ts'
import type { Endpoint, OpenAiLimits, ServedModel } from './endpoint.ts'
import type { GenerationDefaults } from './engine-request.ts'
import { Metrics } from './metrics.ts'
import { PromptEncoder, type RemoteEncode } from './prompts.ts'
import { shuttingDown, unavailable } from './refusals.ts'
import { routes } from './routes.ts'
import { TokenTexts } from './token-text.ts'
import type { UsageLog } from './usage-log.ts'

export const openAiLimits: OpenAiLimits = {
  ...httpLimits,
  ...requestLimits,
  gaugesMs: 2000,
  queueReportMs: 1000,
  encodingsMax: 64,
  checksMax: 32,
}

export interface OpenAiServerOptions {
  /** Its `info` is read per request and only while it accepts, so it may still be loading. */
  engine: EngineClient
  tokenizer: Tokenizer
  /** Without one, chat is refused. */
  template?: ChatTemplate
  /** The names under which the engine's model answers. */
  models: readonly ServedModel[]
  /** Plain keys, or `sha256:` and the hex digest of one. Without keys everybody may ask. */
  apiKeys?: readonly string[]
  /** The same for gateways, which may speak for others and continue what began elsewhere. */
  gatewayKeys?: readonly string[]
  /** Encodes long prompts on another thread; without it they hold up this one. */
  encodeLong?: RemoteEncode
  /** The same for schemas and tools: whether answers can be held to them. */
  checkConstraint?: RemoteCheck
  /** What requests leave out: the model's generation_config. */
  defaults?: GenerationDefaults
  /** Tokens that end an answer; the tokenizer's own when absent. */
  endTokens?: readonly number[]
  /** How embeddings are made of a prompt's states; 'mean' when absent. */
  pooling?: Pooling
  /** Folders below which adapters may be loaded over HTTP; without any they change in-process only. */
  adapterRoots?: readonly string[]
  /** Looks before an adapter is loaded over HTTP whether it is what was saved: refuses with what this finds. */
  adapterDamage?: (folder: string) => Promise<UserError | undefined>
  /** Web pages of these origins may use the server; '*' is all. */
  origins?: readonly string[]
  /** Where the usage of every request is written down; it stays open, for it is the caller's. */
  usageLog?: UsageLog
  limits?: Partial<OpenAiLimits>
  clock?: Clock
  log?: Logger
}

export interface OpenAiServer {
  readonly server: Server
  /** Resolves to the base URL, without /v1. Port 0 takes a free one. */
  listen(port: number, host?: string): Promise<string>
  /** /health and new requests answer 503 from now on; what runs goes on. */
  drain(): void
  /**
   * Drains, gives what runs `limitMs` to end, then ends it with an error that says so. The engine is not closed: it belongs
   * to the caller.
   */
  close(limitMs?: number): Promise<void>
}

/** The HTTP surface of one engine, as OpenAI's clients know it. */
export function createOpenAiServer(options: OpenAiServerOptions): OpenAiServer {
  const { engine, tokenizer } = options
  const limits = { ...openAiLimits, ...options.limits }
  const log = options.log ?? createLogger('openai')
  const authentication = new Authentication(options.apiKeys, options.gatewayKeys)
  const endpoint: Endpoint = {
    isGateway: (exchange) => authentication.isGateway(exchange),
    engine,
    tokenizer,
    template: options.template,
    models: options.models,
    metrics: new Metrics(),
    clock: options.clock ?? systemClock,
    encoder: new PromptEncoder(tokenizer, options.encodeLong, limits.encodingsMax),
    checks: new ConstraintChecks(options.checkConstraint, limits.checksMax),
    spellings: new SpecialSpellings(tokenizer),
    tokenTexts: new TokenTexts(tokenizer),
    defaults: options.defaults ?? {},
    endTokens: options.endTokens ?? tokenizer.eosTokens,
    pooling: options.pooling ?? 'mean',
    limits,
    usageLog: options.usageLog,
    calls: new Calls(),
  }
  let draining = false
  const state = () => (draining ? 'draining' : engine.accepting ? 'ready' : 'unavailable')
  const handle = dispatcher(endpoint, {
    state,
    adapters: {
      roots: options.adapterRoots ?? [],
      damage: options.adapterDamage,
      keyed: options.apiKeys !== undefined || (options.gatewayKeys ?? []).length > 0,
    },
    authentication,
    origins: new Origins(options.origins),
  })
  const http = new HttpServer({
    limits,
    handle,
    onError: (error, exchange) =>
      log.error({ err: error, request: exchange.id }, 'a request failed by a bug'),
  })
  return {
    server: http.server,
    listen: (port, host) => http.listen(port, host),
    drain: () => {
      draining = true
    },
    close: async (limitMs = 30_000) => {
      draining = true
      await http.close(limitMs, () => endpoint.calls.endAll())
    },
  }
}

interface Gates {
  state: () => 'ready' | 'draining' | 'unavailable'
  adapters: AdapterAccess
  authentication: Authentication
  origins: Origins
}

/** Every request passes the same gates: its page's origin, its route, its key, and whether new work is taken. */
function dispatcher(endpoint: Endpoint, gates: Gates): (exchange: Exchange) => Promise<void> {
  const { state, authentication, origins, adapters } = gates
  const router = new Router([
    ...routes(endpoint, state),
    ...adapterRoutes(endpoint, adapters),
    callRoute(endpoint.calls, endpoint.isGateway),
  ])
  return async (exchange) => {
    const { request, response } = exchange
    let path = 'unknown'
    const method = request.method ?? 'GET'
    response.once('close', () => {
      const status = response.headersSent ? response.statusCode : clientGoneStatus
      endpoint.metrics.answered(method, path, status)
    })
    origins.check(exchange)
    if (method === 'OPTIONS' && exchange.header('access-control-request-method') !== undefined) {
      return origins.preflight(exchange)
    }
    const { route, parameters } = router.find(method, exchange.path)
    path = route.path
    exchange.parameters = parameters
    const tenant = route.open === true ? anonymous : authentication.tenantOf(exchange)
    if (route.method === 'POST' && state() === 'draining') throw shuttingDown()
    if (route.method !== 'GET' && state() === 'unavailable') throw unavailable()
    await route.handle(exchange, tenant)
  }
}

/** How logs elsewhere count a client that left before the answer began. */
const clientGoneStatus = 499
