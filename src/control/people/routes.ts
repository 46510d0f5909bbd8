import * as api from '../../api/control/people.ts'
import { Refused } from '../../api/control/problem.ts'
import { keyById } from '../keys/keys.ts'
import { acceptInvitation, openInvitation } from '../projects/invitations.ts'
import { listOrganisations, listProjects, organisationRoleOf, projectRoleOf } from '../projects/projects.ts'
import type { Actor } from '../service/actor.ts'
import { sessionCookie } from '../service/authenticate.ts'
import type { ServiceContext } from '../service/context.ts'
import type { RouteModule, Serve } from '../service/routes.ts'
import { personView, sessionAnswer, sessionCookieOf } from './answers.ts'
import { countFailure, countSignUp, forgetFailures, refuseTooMany } from './attempts.ts'
import { confirmPassword, must, requireSession } from './checks.ts'
import { oidcRoutes } from './oidc-routes.ts'
import { hashPassword, verifyPassword } from './passwords.ts'
import { addPerson, changePerson, personByEmail, personById } from './people.ts'
import { checkSecondFactor, secondFactorRoutes } from './second-factor.ts'
import { closeOtherSessions, closeSession, openSession, sessionsOf } from './sessions.ts'
import { addSignInCode, takeSignInCode } from './sign-in-codes.ts'

export const peopleRoutes: RouteModule = (serve, context) => {
  signUpRoute(serve, context)
  logInRoutes(serve, context)
  signInCodeRoutes(serve, context)
  whoAmIRoute(serve, context)
  sessionRoutes(serve, context)
  secondFactorRoutes(serve, context)
  oidcRoutes(serve, context)
}

function signUpRoute(serve: Serve, { store, signUp, scrypt }: ServiceContext): void {
  serve(api.signUp, async ({ body, address, audit }) => {
    await countSignUp(store, address)
    if (signUp === 'invited' && body.invitation === undefined)
      throw new Refused('forbidden', 'Accounts are made by invitation here.', {
        fix: 'Ask an owner of an organisation for an invitation (ropeway org invite).',
      })
    // Before the work: hashing a password for nobody costs as much.
    if (body.invitation !== undefined) await openInvitation(store, body.invitation, body.email)
    const passwordHash = await hashPassword(body.password, scrypt)
    return await store.transaction(async () => {
      const person = await addPerson(store, { email: body.email, name: body.name, passwordHash })
      if (person === undefined)
        throw new Refused('name_taken', 'There is an account with this address.', {
          param: 'email',
          fix: 'Log in instead.',
        })
      if (body.invitation !== undefined)
        await acceptInvitation(store, await openInvitation(store, body.invitation, body.email), person.id)
      const session = await openSession(store, person.id, body.client ?? 'sign-up')
      await audit('person.sign-up', person.id)
      return sessionAnswer(session, person)
    })
  })
}

function logInRoutes(serve: Serve, context: ServiceContext): void {
  const { store } = context
  serve(api.logIn, async ({ body, address, audit, headers, setHeader }) => {
    const account = body.email.toLowerCase()
    await refuseTooMany(store, account, address)
    const person = await personByEmail(store, account)
    const isRight = await verifyPassword(body.password, person?.password_hash ?? undefined, context.scrypt)
    if (person === undefined || !isRight || person.disabled_at !== null) {
      await countFailure(store, account, address)
      throw new Refused('unauthenticated', 'The address or the password is wrong.')
    }
    const left = await checkSecondFactor(context, person, body, () => countFailure(store, account, address))
    return await store.transaction(async () => {
      await forgetFailures(store, account)
      const session = await openSession(store, person.id, body.client ?? 'unnamed')
      const recovery = left === undefined ? {} : { recovery_codes_left: left }
      await audit('person.log-in', person.id, { session: session.id, ...recovery })
      if (body.cookie === true) setHeader('set-cookie', sessionCookieOf(session.token, isSecure(headers)))
      return { ...sessionAnswer(session, person), ...recovery }
    })
  })
  serve(api.logOut, async ({ actor, setHeader }) => {
    requireSession(actor)
    await closeSession(store, actor.personId, actor.id)
    setHeader('set-cookie', `${sessionCookie}=; Path=/; Max-Age=0`)
  })
  serve(api.changePassword, async ({ actor, body, address, audit }) => {
    const person = (await personById(store, actor.personId))!
    // Who was made with a key alone gives themselves a password with it.
    if (person.password_hash !== null || !actsAsPerson(actor) || actor.endsAt !== undefined) {
      requireSession(actor)
      await confirmPassword(context, person, body.old, address)
    }
    const password_hash = await hashPassword(body.new, context.scrypt)
    await store.transaction(async () => {
      await must(changePerson(store, person, { password_hash }))
      await closeOtherSessions(store, person.id, actor.id)
      await audit('person.password', person.id)
    })
  })
}

function signInCodeRoutes(serve: Serve, { store }: ServiceContext): void {
  serve(api.createSignInCode, async ({ actor, audit }) => {
    // A session is more than a key with less.
    if (actor.kind === 'key' && !actsAsPerson(actor))
      throw new Refused('forbidden', 'This key may less than its person, and a session may as much.', {
        fix: 'Log in (ropeway login), or use a key of your own with the scope *.',
      })
    return await store.transaction(async () => {
      const { code, expiresAt } = await addSignInCode(store, actor.personId, actor.endsAt)
      await audit('sign-in-code.create', actor.personId)
      return { code, expires_at: expiresAt }
    })
  })
  serve(api.useSignInCode, async ({ body, audit, headers, setHeader }) => {
    return await store.transaction(async () => {
      const taken = await takeSignInCode(store, body.code)
      if (taken === undefined)
        throw new Refused('unauthenticated', 'This code is not known here, was used, or is too old.', {
          fix: 'Make another: ropeway console.',
        })
      const { person, endsAt } = taken
      const session = await openSession(store, person.id, 'browser', endsAt)
      await audit('person.log-in', person.id, { session: session.id, by: 'code' })
      setHeader('set-cookie', sessionCookieOf(session.token, isSecure(headers)))
      return { person: personView(person), expires_at: session.expiresAt }
    })
  })
}

function whoAmIRoute(serve: Serve, { store }: ServiceContext): void {
  serve(api.whoAmI, async ({ actor }) => {
    const person = (await personById(store, actor.personId))!
    // What they belong to, also for who may see everything.
    const who = {
      id: person.id,
      isOperator: false,
      ...(actor.onlyProject !== undefined && { onlyProject: actor.onlyProject }),
    }
    const organisations = []
    for (const { id, name } of (await listOrganisations(store, who, { limit: shownMax })).rows)
      organisations.push({ id, name, role: (await organisationRoleOf(store, id, person.id))! })
    const projects = []
    for (const row of (await listProjects(store, who, { limit: shownMax })).rows)
      projects.push({ id: row.id, name: row.name, role: (await projectRoleOf(store, row, person.id))! })
    const key = actor.kind === 'key' ? await keyById(store, actor.id) : undefined
    return {
      person: personView(person),
      with: actor.kind,
      key: key === undefined ? null : { id: key.id, name: key.name, scopes: [...key.scopes_json] },
      organisations,
      projects,
    }
  })
}

const shownMax = 100

function sessionRoutes(serve: Serve, { store }: ServiceContext): void {
  serve(api.listSessions, async ({ actor }) => {
    const rows = await sessionsOf(store, actor.personId)
    const items = rows.map(({ id, client, created_at, last_used_at, expires_at }) => ({
      ...{ id, client, created_at, last_used_at, expires_at },
      is_this: id === actor.id,
    }))
    return { items }
  })
  serve(api.endSession, async ({ actor, params, audit }) => {
    requireSession(actor)
    if (!(await closeSession(store, actor.personId, params.session)))
      throw new Refused('not_found', `You have no session ${params.session}.`)
    await audit('session.delete', params.session)
  })
}

/** A key that may whatever its person may. */
function actsAsPerson(actor: Actor): boolean {
  return actor.onlyProject === undefined && actor.scopes?.includes('*') === true && actor.isLimited !== true
}

function isSecure(headers: Record<string, unknown>): boolean {
  return headers['x-forwarded-proto'] === 'https'
}
