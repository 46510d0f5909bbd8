/** Who asks in OpenAI's API, in which project, and what they are told when they may not. */
import type { Permission } from '../../api/control/permissions.ts'
import { Refused } from '../../api/control/problem.ts'
import { Problem } from '../../http/problem.ts'
import { listProjects } from '../projects/projects.ts'
import type { Actor, ProjectSeen } from '../service/actor.ts'
import { seeProject } from '../service/authorise.ts'
import { answerOf } from '../service/refusals.ts'
import type { Store } from '../store/store.ts'

/** The project of the key; a key or session of several names one by the header `OpenAI-Project`. */
export async function projectAsked(
  store: Store,
  actor: Actor | undefined,
  header: string | string[] | undefined,
  permission: Permission,
): Promise<ProjectSeen> {
  if (actor === undefined)
    throw new Refused('unauthenticated', 'You did not provide an API key.', {
      fix: 'Send Authorization: Bearer KEY.',
    })
  const named = typeof header === 'string' && header !== '' ? header : actor.onlyProject
  return await seeProject(store, actor, named ?? (await onlyProjectOf(store, actor)), permission)
}

async function onlyProjectOf(store: Store, actor: Actor): Promise<string> {
  const person = { id: actor.personId, isOperator: actor.isOperator }
  const { rows } = await listProjects(store, person, { limit: 2 })
  if (rows.length === 1) return rows[0]!.id
  throw new Problem(
    400,
    'project_missing',
    'This key is of more than one project, or of none: name one in the header OpenAI-Project.',
    { param: 'OpenAI-Project' },
  )
}

/** Anything thrown in the shape that OpenAI's clients parse. */
export function problemFor(error: unknown, requestId: string): Problem {
  if (error instanceof Problem) return error
  const { status, body } = answerOf(error, requestId)
  const { code, message, fix, param } = body.error
  const shown = code === 'unauthenticated' ? 'invalid_api_key' : code
  return new Problem(status, shown, fix === null ? message : `${message} ${fix}`, {
    ...(param !== null && { param }),
  })
}
