/** The HTTP service: route modules, and around every request the same checks, in the same order. */
import { Readable } from 'node:stream'
import swagger from '@fastify/swagger'
import Fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify'
import { jsonSchemaTransform, serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import { z } from 'zod'
import {
  apiRoot,
  type EndpointDefinition,
  type PathParameters,
  parameterNames,
} from '../../api/control/endpoint.ts'
import { isPermission } from '../../api/control/permissions.ts'
import { problemBody, Refused } from '../../api/control/problem.ts'
import { assert } from '../../base/assert.ts'
import { goneSignal } from '../../http/gone.ts'
import { Problem } from '../../http/problem.ts'
import { recordAudit } from '../audit/audit.ts'
import { answerElsewhere, OnAnotherServer } from '../servers/elsewhere.ts'
import type { Actor } from './actor.ts'
import { actorOf } from './authenticate.ts'
import { type Admission, admit } from './authorise.ts'
import type { ServiceContext } from './context.ts'
import { keyHeader, onceFor } from './once.ts'
import { answerOf, bodyBytesMax } from './refusals.ts'
import type { ByteAnswer, Call, RouteModule, Serve } from './routes.ts'
import { type AskAgain, bytesFor, eventsFor, Standing } from './standing.ts'
import type { Surface } from './surface.ts'

const parameterCharactersMax = 300

export async function buildService(
  context: ServiceContext,
  modules: readonly RouteModule[],
  surfaces: readonly Surface[] = [],
): Promise<FastifyInstance> {
  const app = Fastify({
    bodyLimit: bodyBytesMax,
    routerOptions: { maxParamLength: parameterCharactersMax },
    genReqId: () => context.store.ids.next('req'),
    forceCloseConnections: true,
    frameworkErrors: refuseAddress,
  })
  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(serializerCompiler)
  // Bytes go to their handler as they come; JSON keeps its own parser and limit.
  app.addContentTypeParser('*', (_, payload, done) => done(null, payload))
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Ropeway', version: '1', description: 'Train and serve generative language models.' },
      components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } } },
    },
    transform: jsonSchemaTransform,
  })
  handleErrors(app, context)
  logRequests(app, context)
  const serve = routesInto(app, context)
  for (const module of modules) module(serve, context)
  for (const surface of surfaces) surface(app, context)
  app.get(`${apiRoot}/openapi.json`, { schema: { hide: true } as object }, async () => app.swagger())
  return app
}

/** Joins endpoints to the app; every name and every place once. */
function routesInto(app: FastifyInstance, context: ServiceContext): Serve {
  const names = new Set<string>()
  return (endpoint, handler) => {
    assert(!names.has(endpoint.name), `only one endpoint is named ${endpoint.name}`)
    names.add(endpoint.name)
    checkAccess(endpoint)
    const takesBytes = endpoint.body === 'bytes'
    app.route<{ Params: PathParameters<string> & { project?: string; organisation?: string } }>({
      method: endpoint.method,
      url: `${apiRoot}${endpoint.path}`,
      schema: schemaOf(endpoint),
      onRequest: async (request) => {
        admitted.set(request, await whoMay(context, endpoint, request))
      },
      handler: async (request, reply) => {
        if (takesBytes && !(request.body instanceof Readable))
          throw new Refused('unsupported_media', 'This takes bytes.', {
            fix: 'Send Content-Type: application/octet-stream.',
          })
        const lost = new AbortController()
        const gone = AbortSignal.any([goneSignal(reply.raw), lost.signal])
        const call = callOf(request, reply, context, gone) as unknown as Call<typeof endpoint>
        try {
          const work = () => handler(call)
          const result =
            endpoint.once === true
              ? await onceFor(context, endpoint, call.actor, request, reply, work)
              : await work()
          const ask = async () => void (await whoMay(context, endpoint, request))
          return await send(reply, endpoint, result, { ask, lost, everyMs: context.askAgainMs })
        } catch (error) {
          if (!(error instanceof OnAnotherServer)) throw error
          return await answerElsewhere(context.store, request, reply, error)
        }
      },
    })
  }
}

type Admitted = Admission & { readonly actor: Actor | undefined }
const admitted = new WeakMap<FastifyRequest, Admitted>()

/** Who asks, and what they may; throws why not. */
async function whoMay(
  context: ServiceContext,
  { access }: EndpointDefinition,
  request: FastifyRequest<{ Params: { project?: string; organisation?: string } }>,
): Promise<Admitted> {
  const actor = access === 'public' ? undefined : await actorOf(context, request)
  return { ...(await admit(context.store, access, actor, request.params)), actor }
}

function checkAccess({ access, path, name }: EndpointDefinition): void {
  const parameters = parameterNames(path)
  if (isPermission(access)) assert(parameters.includes('project'), `${name} has a project in its path`)
  // Whose deed it was would be in the audit log, and not where.
  if (access === 'signed_in' || access === 'public')
    assert(!parameters.includes('project'), `${name} asks for a permission in the project of its path`)
  if (access.startsWith('organisation:'))
    assert(parameters.includes('organisation'), `${name} has an organisation in its path`)
}

const pathParameter = z.string().min(1).max(parameterCharactersMax)

const onceHeaders = z.looseObject({
  [keyHeader]: z
    .string()
    .optional()
    .describe('Asked again with the same key, it answers again and does nothing.'),
})

function schemaOf(endpoint: EndpointDefinition): object {
  const { answer, body, query, summary, name, path, access, params } = endpoint
  const parameters = parameterNames(path)
  const success = answer instanceof z.ZodType ? { 200: answer } : bodiless(answer)
  const streamed = answer === 'bytes' ? 'application/octet-stream' : 'application/x-ndjson'
  return {
    summary,
    operationId: name,
    tags: [name.split('.')[0]],
    // Who may call it; of no meaning to OpenAPI.
    'x-access': access,
    ...(access !== 'public' && { security: [{ bearer: [] }] }),
    ...((answer === 'bytes' || answer === 'events') && { produces: [streamed] }),
    ...(body === 'bytes' && { consumes: ['application/octet-stream'] }),
    ...(parameters.length > 0 && {
      params: z.object(
        Object.fromEntries(parameters.map((parameter) => [parameter, params?.[parameter] ?? pathParameter])),
      ),
    }),
    ...(endpoint.once === true && { headers: onceHeaders }),
    querystring: query ?? z.strictObject({}),
    ...(body !== undefined && body !== 'bytes' && { body }),
    response: { ...success, '4xx': problemBody, '5xx': problemBody },
  }
}

function bodiless(answer: string): object {
  return answer === 'nothing' ? { 204: z.null() } : answer === 'redirect' ? { 302: z.null() } : {}
}

function callOf(request: FastifyRequest, reply: FastifyReply, { store }: ServiceContext, gone: AbortSignal) {
  const { actor, project, organisation } = admitted.get(request)!
  return {
    params: request.params,
    query: request.query,
    body: request.body,
    actor,
    project,
    organisation,
    headers: request.headers,
    requestId: request.id,
    address: request.ip,
    gone,
    setHeader: (name: string, value: string) => void reply.header(name, value),
    audit: (action: string, subject: string, details: Record<string, unknown> = {}) =>
      recordAudit(store, {
        action,
        subject,
        details,
        organisation_id: organisation?.id ?? project?.organisationId ?? null,
        project_id: project?.id ?? null,
        person_id: actor?.personId ?? null,
        actor_id: actor?.id ?? null,
        address: request.ip,
        request_id: request.id,
      }),
  }
}

interface LongAnswer {
  readonly ask: AskAgain
  /** Aborted when they may not have it any more. */
  readonly lost: AbortController
  readonly everyMs: number | undefined
}

async function send(
  reply: FastifyReply,
  { answer }: EndpointDefinition,
  result: unknown,
  { ask, lost, everyMs }: LongAnswer,
): Promise<unknown> {
  if (answer === 'nothing') return await reply.status(204).send()
  if (answer === 'redirect') {
    const { location } = result as { location: string }
    return await reply.status(302).header('location', location).header('cache-control', 'no-store').send()
  }
  if (answer === 'bytes') {
    const { stream, status, headers } = result as ByteAnswer
    const standing = new Standing(ask, (refusal) => stream.destroy(refusal), everyMs)
    return await reply
      .status(status ?? 200)
      .headers(headers)
      .send(bytesFor(standing, stream))
  }
  if (answer === 'events') {
    const standing = new Standing(ask, () => lost.abort(), everyMs)
    const problemOf = (refusal: Refused) => answerOf(refusal, reply.request.id).body
    const events = eventsFor(standing, result as AsyncIterable<object>, problemOf)
    return await reply
      .header('content-type', 'application/x-ndjson')
      .header('cache-control', 'no-store')
      .send(Readable.from(jsonLines(events)))
  }
  return result
}

async function* jsonLines(events: AsyncIterable<object>): AsyncGenerator<string> {
  for await (const event of events) yield `${JSON.stringify(event)}\n`
}

function handleErrors(app: FastifyInstance, { log }: ServiceContext): void {
  app.setErrorHandler(async (error, request, reply) => {
    const { status, body } = answerOf(error, request.id, { ...request.routeOptions.schema })
    // Who went away in the middle of an upload hears no answer, and nothing is wrong here.
    if (request.raw.destroyed && !request.raw.complete) {
      log.info({ request: request.id, route: request.routeOptions.url }, 'the client went away')
      return await reply.status(status).send(body)
    }
    if (status >= 500)
      log.error({ err: error, request: request.id, route: request.routeOptions.url }, 'request failed')
    if (status === 401) reply.header('www-authenticate', 'Bearer')
    return await reply.status(status).send(body)
  })
  app.setNotFoundHandler(async (request, reply) => {
    const refusal = new Refused('not_found', 'There is nothing at this address.', {
      fix: `${apiRoot}/openapi.json says what there is.`,
    })
    return await reply.status(404).send(answerOf(refusal, request.id).body)
  })
  app.addHook('onSend', async (request, reply) => {
    reply.header('x-request-id', request.id)
  })
}

/** For an address that cannot be read, so that no route is found: in the shape of what would be there. */
function refuseAddress(error: FastifyError, { id, raw }: FastifyRequest, reply: FastifyReply): void {
  const { status, body } = answerOf(error, id)
  const { code, message } = body.error
  const isOpenAi = raw.url?.startsWith('/v1/') === true
  const shown = isOpenAi ? new Problem(status, code, message).body : body
  void reply.header('x-request-id', id).status(status).send(shown)
}

/** The route as it was written, never the address as it was asked: that may hold anything. */
function logRequests(app: FastifyInstance, { log }: ServiceContext): void {
  app.addHook('onResponse', async (request, reply) => {
    const level = reply.statusCode >= 500 ? 'error' : 'info'
    log[level](
      {
        request: request.id,
        method: request.method,
        route: request.routeOptions.url ?? 'unknown',
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime),
        actor: admitted.get(request)?.actor?.id,
      },
      'request',
    )
  })
}
