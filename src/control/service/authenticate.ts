import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyRequest } from 'fastify'
import { Refused } from '../../api/control/problem.ts'
import { keyByHash, keyTokenPrefix } from '../keys/keys.ts'
import type { PersonRow } from '../people/people.ts'
import { personOfToken, sessionTokenPrefix } from '../people/sessions.ts'
import type { Actor } from './actor.ts'
import type { ServiceContext } from './context.ts'
import { sha256 } from './tokens.ts'

export const sessionCookie = 'ropeway_session'
const tokenCharactersMax = 200

type Context = Pick<ServiceContext, 'store' | 'log'>

/**
 * Who asks, by `Authorization: Bearer` or the console's cookie; undefined without either. Throws `unauthenticated` for
 * a token that is not known.
 */
export async function actorOf(context: Context, request: FastifyRequest): Promise<Actor | undefined> {
  const token = bearerOf(request) ?? cookieOf(request)
  if (token === undefined) return undefined
  const actor = token.length > tokenCharactersMax ? undefined : await actorOfToken(context, token)
  if (actor !== undefined) return actor
  throw new Refused('unauthenticated', 'The key or session is not known here, has expired, or was revoked.', {
    fix: 'Log in again (ropeway login), or use another key.',
  })
}

async function actorOfToken({ store, log }: Context, token: string): Promise<Actor | undefined> {
  if (token.startsWith(sessionTokenPrefix)) {
    const found = await personOfToken(store, token, log)
    return found && { kind: 'session', id: found.session, ...personPart(found.person) }
  }
  if (!token.startsWith(keyTokenPrefix)) return undefined
  const found = await keyByHash(store, sha256(token), log)
  if (found === undefined) return undefined
  const { key, person } = found
  return {
    kind: 'key',
    id: key.id,
    ...personPart(person),
    // A key of one project is never more than that project's.
    isOperator: person.is_operator === 1 && key.project_id === null,
    scopes: key.scopes_json,
    ...(key.project_id !== null && { onlyProject: key.project_id }),
    ...(key.role_max !== null && { roleMax: key.role_max }),
    ...(key.expires_at !== null && { endsAt: key.expires_at }),
    isLimited: Object.values(key.limits_json).some((limit) => limit !== undefined),
  }
}

function personPart(person: PersonRow) {
  return { personId: person.id, name: person.email, isOperator: person.is_operator === 1 }
}

function bearerOf({ headers: { authorization } }: FastifyRequest): string | undefined {
  if (authorization === undefined) return undefined
  const [scheme, token] = authorization.split(/ +/, 2)
  if (scheme?.toLowerCase() === 'bearer' && token) return token
  throw new Refused('unauthenticated', 'The header Authorization is not of the form "Bearer TOKEN".', {
    fix: 'Send Authorization: Bearer followed by a key or a session token.',
  })
}

/** A browser sends the cookie whoever's page asks: what changes something must come from a page of our own. */
function cookieOf({ headers, method }: FastifyRequest): string | undefined {
  const token = cookieNamed(headers, sessionCookie)
  if (token === undefined || token === '') return undefined
  if (method === 'GET' || method === 'HEAD') return token
  const { origin, host } = headers
  if (origin !== undefined && URL.canParse(origin) && new URL(origin).host === host) return token
  throw new Refused('forbidden', 'This request came from a page of another site.')
}

export function cookieNamed(headers: IncomingHttpHeaders, name: string): string | undefined {
  const cookies = headers.cookie?.split(/; */) ?? []
  return cookies.find((cookie) => cookie.startsWith(`${name}=`))?.slice(name.length + 1)
}
