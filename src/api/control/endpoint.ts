/**
 * An endpoint is one value that the service, its OpenAPI document, the client, the command line and the console
 * share: where it is, who may call it, what goes in and what comes out.
 */
import type { z } from 'zod'
import type { Access } from './permissions.ts'

export interface EndpointDefinition {
  /** `jobs.list`: noun and verb; unique. */
  readonly name: `${string}.${string}`
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Below `/api/v1`. `:project` and `:organisation` take a name or an id and are resolved by the service. */
  readonly path: `/${string}`
  /** One line for the reference. */
  readonly summary: string
  readonly access: Access
  /** What `:names` of the path must look like, where that is more than some text. */
  readonly params?: Readonly<Record<string, z.ZodString>>
  readonly query?: z.ZodObject
  /**
   * Asked again with the same `Idempotency-Key`, it answers as it did and does nothing: set where doing it twice would
   * harm. Its handler runs in one transaction.
   */
  readonly once?: true
  /** `bytes`: the body as a stream, of any type. */
  readonly body?: z.ZodType | 'bytes'
  /** `events`: a stream of JSON lines, the last of which is the body of a refusal where it ends by one; `bytes`: a stream with headers of the handler's; `nothing`: 204; `redirect`: 302. */
  readonly answer: z.ZodType | 'bytes' | 'events' | 'nothing' | 'redirect'
}

export const apiRoot = '/api/v1'

export function endpoint<const Definition extends EndpointDefinition>(definition: Definition): Definition {
  return definition
}

type ParameterNames<Path extends string> = Path extends `${string}:${infer Rest}`
  ? Rest extends `${infer Name}/${infer After}`
    ? Name | ParameterNames<`/${After}`>
    : Rest
  : never

/** What `:names` of the path stand for. */
export type PathParameters<Path extends string> = { readonly [Name in ParameterNames<Path>]: string }

export type QueryInput<D extends EndpointDefinition> = D['query'] extends z.ZodObject
  ? z.input<D['query']>
  : undefined
export type QueryOutput<D extends EndpointDefinition> = D['query'] extends z.ZodObject
  ? z.output<D['query']>
  : undefined
export type AnswerOf<D extends EndpointDefinition> = D['answer'] extends z.ZodType
  ? z.output<D['answer']>
  : undefined

export function parameterNames(path: string): string[] {
  return [...path.matchAll(/:([a-z_]+)/g)].map(([, name]) => name!)
}
