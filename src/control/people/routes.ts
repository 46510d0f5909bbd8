import { randomBytes } from 'node:crypto'
import * as api from '../../api/control/people.ts'
import { Refused } from '../../api/control/problem.ts'
import { keyById } from '../keys/keys.ts'
import { acceptInvitation, openInvitation } from '../projects/invitations.ts'
import { listOrganisations, listProjects, organisationRoleOf, projectRoleOf } from '../projects/projects.ts'
import type { Actor } from '../service/actor.ts'
import { sessionCookie } from '../service/authenticate.ts'
import type { ServiceContext } from '../service/context.ts'
import type { RouteModule, Serve } from '../service/routes.ts'
import { countFailure, forgetFailures, refuseTooMany } from './attempts.ts'
import { hashPassword, verifyPassword } from './passwords.ts'
import { addPerson, changePerson, type PersonRow, personByEmail, personById } from './people.ts'
import { closeOtherSessions, closeSession, openSession, sessionMs, sessionsOf } from './sessions.ts'
import { toBase32, totpStep, totpUri } from './totp.ts'

export const peopleRoutes: RouteModule = (serve, context) => {
  signUpRoute(serve, context)
  logInRoutes(serve, context)
  whoAmIRoute(serve, context)
  sessionRoutes(serve, context)
  totpRoutes(serve, context)
}

function signUpRoute(serve: Serve, { store, signUp, scrypt }: ServiceContext): void {
  serve(api.signUp, async ({ body, audit }) => {
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
    await checkSecondFactor(context, person, body.code, () => countFailure(store, account, address))
    return await store.transaction(async () => {
      await forgetFailures(store, account)
      const session = await openSession(store, person.id, body.client ?? 'unnamed')
      await audit('person.log-in', person.id, { session: session.id })
      if (body.cookie === true) setHeader('set-cookie', cookieOf(session.token, isSecure(headers)))
      return sessionAnswer(session, person)
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
    if (person.password_hash !== null || !actsAsPerson(actor)) {
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

function totpRoutes(serve: Serve, context: ServiceContext): void {
  const { store, sealer } = context
  serve(api.startTotp, async ({ actor, body, address }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    if (person.totp_confirmed === 1)
      throw new Refused('conflict', 'A second factor is set up already.', { fix: 'Remove it first.' })
    await confirmPassword(context, person, body.password, address)
    const secret = randomBytes(20)
    await must(
      changePerson(store, person, { totp_sealed: sealer.seal(secret.toString('base64'), person.id) }),
    )
    return { secret: toBase32(secret), uri: totpUri(secret, person.email) }
  })
  serve(api.confirmTotp, async ({ actor, body, audit }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    if (person.totp_sealed === null)
      throw new Refused('conflict', 'No secret was asked for.', { fix: 'Ask for one first (POST /totp).' })
    const step = stepOf({ sealer, store }, person, body.code)
    if (step === undefined) throw wrongCode()
    await store.transaction(async () => {
      await must(changePerson(store, person, { totp_confirmed: 1, totp_last_step: step }))
      await audit('person.totp', person.id)
    })
  })
  serve(api.removeTotp, async ({ actor, body, address, audit }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    await refuseTooMany(store, person.email, address)
    await checkSecondFactor({ sealer, store }, person, body.code, () =>
      countFailure(store, person.email, address),
    )
    await store.transaction(async () => {
      const now = (await personById(store, person.id))!
      await must(changePerson(store, now, { totp_confirmed: 0, totp_sealed: null }))
      await audit('person.totp-remove', person.id)
    })
  })
}

type Sealed = Pick<ServiceContext, 'sealer' | 'store'>

/** Uses the code up: nobody who saw it can use it again. */
async function checkSecondFactor(
  context: Sealed,
  person: PersonRow,
  code: string | undefined,
  failed: () => Promise<void>,
): Promise<void> {
  if (person.totp_confirmed !== 1) return
  if (code === undefined)
    throw new Refused('second_factor_required', 'This account has a second factor.', {
      param: 'code',
      fix: 'Give the code of your authenticator app too.',
    })
  const step = stepOf(context, person, code)
  const used =
    step === undefined ? undefined : await changePerson(context.store, person, { totp_last_step: step })
  if (used !== undefined) return
  await failed()
  throw wrongCode()
}

function stepOf({ sealer, store }: Sealed, person: PersonRow, code: string): number | undefined {
  const secret = Buffer.from(sealer.open(person.totp_sealed!, person.id), 'base64')
  return totpStep(secret, code, store.clock.unixMs(), person.totp_last_step)
}

function wrongCode(): Refused {
  return new Refused('unauthenticated', 'The code is wrong, too old, or was used before.', {
    param: 'code',
    fix: 'Wait for the next code; check that the clock of your phone is right.',
  })
}

async function confirmPassword(
  { store, scrypt }: ServiceContext,
  person: PersonRow,
  password: string,
  address: string,
): Promise<void> {
  await refuseTooMany(store, person.email, address)
  if (await verifyPassword(password, person.password_hash ?? undefined, scrypt)) return
  await countFailure(store, person.email, address)
  throw new Refused('unauthenticated', 'The password is wrong.')
}

/** A key that may whatever its person may. */
function actsAsPerson(actor: Actor): boolean {
  return actor.onlyProject === undefined && actor.scopes?.includes('*') === true
}

function requireSession(actor: Actor): void {
  if (actor.kind === 'session') return
  throw new Refused('forbidden', 'This needs a person who is logged in; a key may not do it.', {
    fix: 'ropeway login',
  })
}

async function must(change: Promise<PersonRow | undefined>): Promise<void> {
  if ((await change) === undefined)
    throw new Refused('conflict', 'Your account was changed elsewhere at the same moment.', {
      fix: 'Try again.',
    })
}

function sessionAnswer(
  { id, token, expiresAt }: { id: string; token: string; expiresAt: number },
  person: PersonRow,
) {
  return { token, session: id, expires_at: expiresAt, person: personView(person) }
}

function personView({ id, email, name, created_at, is_operator, totp_confirmed }: PersonRow) {
  return { id, email, name, created_at, is_operator: is_operator === 1, second_factor: totp_confirmed === 1 }
}

function isSecure(headers: Record<string, unknown>): boolean {
  return headers['x-forwarded-proto'] === 'https'
}

function cookieOf(token: string, secure: boolean): string {
  const age = Math.floor(sessionMs / 1000)
  return `${sessionCookie}=${token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${age}${secure ? '; Secure' : ''}`
}
