import type { IncomingHttpHeaders } from 'node:http'
import type { Readable } from 'node:stream'
import type { z } from 'zod'
import type { AnswerOf, EndpointDefinition, PathParameters, QueryOutput } from '../../api/control/endpoint.ts'
import type { Actor, OrganisationSeen, ProjectSeen } from './actor.ts'
import type { ServiceContext } from './context.ts'

type BodyOf<D extends EndpointDefinition> = D['body'] extends 'bytes'
  ? Readable
  : D['body'] extends z.ZodType
    ? z.output<D['body']>
    : undefined

/** One request, checked: what its endpoint says is there, is there. */
export interface Call<D extends EndpointDefinition> {
  readonly params: PathParameters<D['path']>
  readonly query: QueryOutput<D>
  readonly body: BodyOf<D>
  readonly actor: D['access'] extends 'public' ? Actor | undefined : Actor
  readonly project: D['path'] extends `${string}/:project${string}` ? ProjectSeen : undefined
  readonly organisation: D['path'] extends `${string}/:organisation${string}` ? OrganisationSeen : undefined
  readonly headers: IncomingHttpHeaders
  readonly requestId: string
  /** Of the client, as far as is known. */
  readonly address: string
  /** Aborts when the client goes away, or may not have the answer any more. */
  readonly gone: AbortSignal
  setHeader(name: string, value: string): void
  /** Writes the deed into the audit log, in the transaction around it if there is one. */
  audit(action: string, subject: string, details?: Record<string, unknown>): Promise<void>
}

/** An answer of bytes: a file, a range of it. */
export interface ByteAnswer {
  readonly stream: Readable
  readonly status?: 200 | 206
  readonly headers: Readonly<Record<string, string>>
}

type HandlerAnswer<D extends EndpointDefinition> = D['answer'] extends 'bytes'
  ? ByteAnswer
  : D['answer'] extends 'events'
    ? AsyncIterable<object>
    : D['answer'] extends 'redirect'
      ? { readonly location: string }
      : D['answer'] extends 'nothing'
        ? // biome-ignore lint/suspicious/noConfusingVoidType: a handler that answers nothing returns nothing
          void
        : AnswerOf<D>

export type Handler<D extends EndpointDefinition> = (call: Call<D>) => Promise<HandlerAnswer<D>>

/** Joins an endpoint to what answers it. */
export type Serve = <D extends EndpointDefinition>(endpoint: D, handler: Handler<D>) => void

/** What a noun gives to the service: joins each of its endpoints to a handler. */
export type RouteModule = (serve: Serve, context: ServiceContext) => void
