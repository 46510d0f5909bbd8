/** What every endpoint of OpenAI's API goes through here. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { z } from 'zod'
import type { Permission } from '../../api/control/permissions.ts'
import type { Refused } from '../../api/control/problem.ts'
import { recordAudit } from '../audit/audit.ts'
import type { Actor, ProjectSeen } from '../service/actor.ts'
import { actorOf } from '../service/authenticate.ts'
import { checked } from '../service/checked.ts'
import type { ServiceContext } from '../service/context.ts'
import { Standing } from '../service/standing.ts'
import { projectAsked } from './asking.ts'

export interface Asked {
  readonly project: ProjectSeen
  readonly actor: Actor
  readonly params: Readonly<Record<string, string>>
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  query<Schema extends z.ZodType>(schema: Schema): z.output<Schema>
  body<Schema extends z.ZodType>(schema: Schema): z.output<Schema>
  audit(action: string, subject: string): Promise<void>
  /** For an answer that may take long. */
  standing(onLost: (refusal: Refused) => void): Standing
}

export type Handler = (asked: Asked) => Promise<unknown>
export type On = (
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  permission: Permission,
  handler: Handler,
) => void

/** Joins handlers to paths: who asks, in which project, may they; what they ask, checked. */
export function joiner(scope: FastifyInstance, context: ServiceContext): On {
  return (method, url, permission, handler) =>
    scope.route<{ Params: Record<string, string> }>({
      method,
      url,
      schema: { hide: true } as object,
      handler: async (request, reply) => {
        const whoMay = async () => {
          const actor = await actorOf(context, request)
          const named = request.headers['openai-project']
          return { actor, project: await projectAsked(context.store, actor, named, permission) }
        }
        const { actor, project } = await whoMay()
        const askAgain = async () => void (await whoMay())
        const audit = (action: string, subject: string) =>
          recordAudit(context.store, {
            action,
            subject,
            details: {},
            organisation_id: project.organisationId,
            project_id: project.id,
            person_id: actor?.personId ?? null,
            actor_id: actor?.id ?? null,
            address: request.ip,
            request_id: request.id,
          })
        return await handler({
          ...{ project, actor: actor!, params: request.params, request, reply, audit },
          standing: (onLost) => new Standing(askAgain, onLost, context.askAgainMs),
          query: (schema) => checked(schema, request.query),
          body: (schema) => checked(schema, request.body),
        })
      },
    })
}

export function listOf<Item extends { id: string }>(data: Item[], hasMore: boolean) {
  return {
    object: 'list' as const,
    data,
    has_more: hasMore,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
  }
}
