import * as api from '../../api/control/oidc.ts'
import { Refused } from '../../api/control/problem.ts'
import { cookieNamed } from '../service/authenticate.ts'
import type { ServiceContext } from '../service/context.ts'
import type { RouteModule, Serve } from '../service/routes.ts'
import { sessionAnswer, sessionCookieOf } from './answers.ts'
import { must, requireSession } from './checks.ts'
import { personOfIdentity } from './oidc-accounts.ts'
import {
  codeMs,
  flowCookie,
  flowMs,
  type KeptFlow,
  newFlow,
  openCode,
  openFlow,
  sealCode,
  sealFlow,
} from './oidc-flow.ts'
import type { Identity, OidcProvider } from './oidc-provider.ts'
import { changePerson, personById, personBySubject } from './people.ts'
import { openSession } from './sessions.ts'

export const oidcRoutes: RouteModule = (serve, context) => {
  serve(api.viewOidc, async () => ({
    enabled: context.oidc !== undefined,
    name: context.oidc?.settings.name ?? null,
  }))
  startRoute(serve, context)
  callbackRoute(serve, context)
  programRoutes(serve, context)
}

function startRoute(serve: Serve, context: ServiceContext): void {
  const { sealer, store } = context
  serve(api.startOidc, async ({ query, setHeader }) => {
    const provider = configured(context)
    const flow = newFlow()
    const kept: KeptFlow = {
      ...{ nonce: flow.nonce, verifier: flow.verifier, untilMs: store.clock.unixMs() + flowMs },
      ...(query.redirect === undefined
        ? { returnTo: pageOf(query.return_to ?? '/', provider) }
        : { program: programOf(query.redirect, query.challenge, query.state) }),
    }
    const location = await provider.authorization(flow)
    // Lax: the provider's page is another site, and sends the browser back with it.
    setHeader('set-cookie', cookieOf(provider, flow.state, sealFlow(sealer, flow.state, kept), flowMs))
    return { location }
  })
}

function callbackRoute(serve: Serve, context: ServiceContext): void {
  const { sealer, store } = context
  serve(api.endOidc, async ({ query, headers, setHeader, audit }) => {
    const provider = configured(context)
    const state = query.state ?? ''
    const sealed = cookieNamed(headers, flowCookie(state))
    const flow = openFlow(sealer, state, sealed, store.clock.unixMs())
    setHeader('set-cookie', cookieOf(provider, state, '', 0))
    const { program, returnTo } = flow
    if (program === undefined) {
      const identity = await provider.identity(query, { state, ...flow })
      const token = await store.transaction(async () => {
        const person = await personOfIdentity(store, identity, provider.settings, audit)
        const session = await openSession(store, person.id, 'browser')
        await audit('person.log-in', person.id, { session: session.id, by: 'oidc' })
        return session.token
      })
      setHeader('set-cookie', sessionCookieOf(token, isSecure(provider)))
      return { location: returnTo ?? '/' }
    }
    const location = new URL(program.redirect)
    location.searchParams.set('state', program.state)
    try {
      const identity = await provider.identity(query, { state, ...flow })
      const untilMs = store.clock.unixMs() + codeMs
      const kept = { identity, challenge: program.challenge, untilMs }
      location.searchParams.set('code', sealCode(sealer, kept))
    } catch (error) {
      // The program waits for an answer: it says what went wrong.
      if (!(error instanceof Refused)) throw error
      location.searchParams.set('error', error.code)
      location.searchParams.set('error_description', error.message)
    }
    return { location: location.href }
  })
}

function programRoutes(serve: Serve, context: ServiceContext): void {
  const { sealer, store } = context
  const identityOf = (body: { code: string; verifier: string }): Identity =>
    openCode(sealer, body, store.clock.unixMs())
  serve(api.tokenOfOidc, async ({ body, audit }) => {
    const provider = configured(context)
    const identity = identityOf(body)
    return await store.transaction(async () => {
      const person = await personOfIdentity(store, identity, provider.settings, audit)
      const session = await openSession(store, person.id, body.client ?? 'unnamed')
      await audit('person.log-in', person.id, { session: session.id, by: 'oidc' })
      return sessionAnswer(session, person)
    })
  })
  serve(api.linkOidc, async ({ actor, body, audit }) => {
    requireSession(actor)
    configured(context)
    const { subject } = identityOf(body)
    await store.transaction(async () => {
      const other = await personBySubject(store, subject)
      if (other !== undefined && other.id !== actor.personId)
        throw new Refused('conflict', 'This account at the provider logs in as somebody else here.', {
          fix: 'Use another one, or take it off there first (ropeway login --unlink).',
        })
      await must(changePerson(store, (await personById(store, actor.personId))!, { oidc_subject: subject }))
      await audit('person.oidc-link', actor.personId, { by: 'themselves' })
    })
  })
  serve(api.unlinkOidc, async ({ actor, audit }) => {
    requireSession(actor)
    await store.transaction(async () => {
      const person = (await personById(store, actor.personId))!
      if (person.oidc_subject === null) throw new Refused('not_found', 'Nothing is linked to your account.')
      if (person.password_hash === null)
        throw new Refused('conflict', 'You have no password: nothing else would let you in.')
      await must(changePerson(store, person, { oidc_subject: null }))
      await audit('person.oidc-unlink', person.id)
    })
  })
}

function configured({ oidc }: ServiceContext): OidcProvider {
  if (oidc !== undefined) return oidc
  throw new Refused('not_found', 'This service has no OpenID provider.', {
    fix: 'Log in with a password; whoever runs the service can add a provider (ropeway up --oidc FILE).',
  })
}

/** A page of this service and of no other. */
function pageOf(path: string, { settings }: OidcProvider): string {
  const url = URL.canParse(path, settings.serviceUrl) ? new URL(path, settings.serviceUrl) : undefined
  if (path.startsWith('/') && url?.origin === new URL(settings.serviceUrl).origin)
    return `${url.pathname}${url.search}${url.hash}`
  throw new Refused('invalid_request', `${path} is no page of this service.`, {
    param: 'return_to',
    fix: 'Give a path that begins with one slash.',
  })
}

function programOf(redirect: string, challenge: string | undefined, state = '') {
  const url = URL.canParse(redirect) ? new URL(redirect) : undefined
  if (url?.protocol !== 'http:' || !['127.0.0.1', '[::1]'].includes(url.hostname))
    throw new Refused('invalid_request', 'A program listens at http://127.0.0.1:PORT.', { param: 'redirect' })
  if (challenge === undefined)
    throw new Refused('invalid_request', 'A program proves that a code is its own.', {
      param: 'challenge',
      fix: 'Give the SHA-256 of a verifier (RFC 7636).',
    })
  return { redirect: url.href, challenge, state }
}

function isSecure({ settings }: OidcProvider): boolean {
  return settings.serviceUrl.startsWith('https:')
}

function cookieOf(provider: OidcProvider, state: string, value: string, ms: number): string {
  const secure = isSecure(provider) ? '; Secure' : ''
  const path = '/api/v1/oidc'
  return `${flowCookie(state)}=${value}; Path=${path}; HttpOnly; SameSite=Lax; Max-Age=${ms / 1000}${secure}`
}
