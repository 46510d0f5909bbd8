/** Log-in through a real OpenID provider (oidc-provider), in browsers and for programs. */
import { createHash } from 'node:crypto'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { listOrganisationAudit } from '../../src/api/control/audit.ts'
import { apiRoot } from '../../src/api/control/endpoint.ts'
import * as oidc from '../../src/api/control/oidc.ts'
import * as people from '../../src/api/control/people.ts'
import { createInvitation } from '../../src/api/control/projects.ts'
import * as secondFactor from '../../src/api/control/second-factor.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { codeByBrowser } from '../../src/cli/web-login.ts'
import { codeMs, flowMs } from '../../src/control/people/oidc-flow.ts'
import { OidcProvider, type OidcSettings } from '../../src/control/people/oidc-provider.ts'
import { totpAt, totpStepMs } from '../../src/control/people/totp.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'
import { type Account, Browser, startProvider } from './oidc-provider.ts'
import { addMember, fromBase32, startService } from './running.ts'

const verifier = 'v'.repeat(43)
const challenge = createHash('sha256').update(verifier).digest('base64url')
const refusedAs = (code: string) => expect.objectContaining({ name: 'Refused', code })
const ann: Account = { sub: '17', email: 'ann@example.org', email_verified: true, name: 'Ann' }

// The provider says of itself that it is set up for tests.
beforeEach(() => {
  for (const level of ['info', 'warn'] as const) vi.spyOn(console, level).mockReturnValue()
})
afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

/** The service and its provider; each learns where the other is once both listen. */
async function start(databases: TestDatabases, changes: Partial<OidcSettings> = {}) {
  const clock = new ManualClock(1_700_000_000_000)
  const where = { issuer: '', serviceUrl: '' }
  const settings: OidcSettings = {
    get issuer() {
      return where.issuer
    },
    get serviceUrl() {
      return where.serviceUrl
    },
    ...{ clientId: 'ropeway', clientSecret: 'of the test', name: 'The lab' },
    ...{ linkByMail: false, signUp: 'invited', ...changes },
  }
  const service = await startService(databases, { clock, oidc: new OidcProvider(settings, clock) })
  where.serviceUrl = service.url
  const provider = await startProvider([`${service.url}${apiRoot}/oidc/callback`])
  where.issuer = provider.issuer
  const startUrl = (query: Record<string, string>) =>
    `${service.url}${apiRoot}/oidc/start?${new URLSearchParams(query)}`
  /** What the program at the end of a log-in is told. */
  const program = async (browser = new Browser()) => {
    const query = { redirect: 'http://127.0.0.1:9/', challenge, state: 'mine' }
    const { url, response } = await browser.open(startUrl(query), ({ port }) => port === '9')
    return { answer: url.searchParams, response }
  }
  const logIn = async (user: Account) => {
    provider.user = user
    const code = (await program()).answer.get('code')!
    return await service.nobody.call(oidc.tokenOfOidc, { body: { code, verifier } })
  }
  const invite = (email: string) =>
    service.owner.call(createInvitation, {
      params: { organisation: 'main' },
      body: { email, project: 'default', project_role: 'develop' },
    })
  return {
    ...{ service, provider, clock, where, startUrl, program, logIn, invite },
    async [Symbol.asyncDispose]() {
      await provider[Symbol.asyncDispose]()
      await service[Symbol.asyncDispose]()
    },
  }
}

onEveryDatabase((databases) => {
  test('who was invited comes in through the provider, in a browser, and is the same person ever after', async () => {
    await using world = await start(databases)
    const { service, provider } = world
    await world.invite('Ann@example.org')
    provider.user = ann
    const browser = new Browser()
    const done = await browser.open(
      world.startUrl({ return_to: '/jobs?mine=1' }),
      ({ pathname }) => pathname === '/jobs',
    )
    expect(done.url.href).toBe(`${service.url}/jobs?mine=1`)
    const session = done.response.headers.getSetCookie().find((set) => set.startsWith('ropeway_session='))!
    expect(session).toMatch(/HttpOnly; SameSite=Strict/)
    const asked = await browser.get(new URL(`${service.url}${apiRoot}/whoami`))
    const me = people.whoAmI.answer.parse(await asked.json())
    expect(me).toMatchObject({
      person: { email: 'ann@example.org', name: 'Ann' },
      projects: [{ name: 'default', role: 'develop' }],
    })
    // The subject is who somebody is; an address may pass to another person.
    const again = await world.logIn({ ...ann, email: 'other@example.org' })
    expect(again.person).toMatchObject({ id: me.person.id, email: 'ann@example.org' })
    const audit = await service.owner.call(listOrganisationAudit, { params: { organisation: 'main' } })
    expect(JSON.stringify(audit) + service.log.join('')).not.toContain(again.token)
  })

  test('who was not invited, or whose address the provider does not vouch for, stays outside', async () => {
    await using world = await start(databases)
    await expect(world.logIn(ann)).rejects.toEqual(refusedAs('forbidden'))
    await world.invite('ann@example.org')
    await expect(world.logIn({ ...ann, email_verified: false })).rejects.toEqual(refusedAs('forbidden'))
    expect((await world.logIn(ann)).person.email).toBe('ann@example.org')
    await using open = await start(databases, { signUp: 'anyone' })
    expect((await open.logIn(ann)).person.email).toBe('ann@example.org')
  })

  test('an account with a password is linked by its owner, or by its address where that is allowed', async () => {
    await using world = await start(databases)
    const member = await addMember(world.service, 'ann', 'develop')
    await expect(world.logIn(ann)).rejects.toEqual(refusedAs('conflict'))
    const code = (await world.program()).answer.get('code')!
    await member.call(oidc.linkOidc, { body: { code, verifier } })
    const { person } = await world.logIn(ann)
    expect(person.email).toBe(member.email)
    const bob = await addMember(world.service, 'bob', 'develop')
    const second = (await world.program()).answer.get('code')!
    await expect(bob.call(oidc.linkOidc, { body: { code: second, verifier } })).rejects.toEqual(
      refusedAs('conflict'),
    )
    await member.call(oidc.unlinkOidc, {})
    await expect(world.logIn(ann)).rejects.toEqual(refusedAs('conflict'))

    await using byMail = await start(databases, { linkByMail: true })
    const same = await addMember(byMail.service, 'ann', 'develop')
    expect((await byMail.logIn(ann)).person.email).toBe(same.email)
  })

  test('an address alone never passes by a second factor', async () => {
    await using world = await start(databases, { linkByMail: true })
    const member = await addMember(world.service, 'ann', 'develop')
    const { secret } = await member.call(secondFactor.startTotp, { body: { password: member.password } })
    const code = totpAt(fromBase32(secret), Math.floor(world.clock.unixMs() / totpStepMs))
    await member.call(secondFactor.confirmTotp, { body: { code } })
    await expect(world.logIn(ann)).rejects.toEqual(refusedAs('conflict'))
  })

  test('a code is for the program that has the verifier, for a minute', async () => {
    await using world = await start(databases, { signUp: 'anyone' })
    const { service, provider, clock } = world
    provider.user = ann
    const { answer } = await world.program()
    expect(answer.get('state')).toBe('mine')
    const code = answer.get('code')!
    const redeem = (given: string) =>
      service.nobody.call(oidc.tokenOfOidc, { body: { code, verifier: given } })
    await expect(redeem('w'.repeat(43))).rejects.toEqual(refusedAs('unauthenticated'))
    expect((await redeem(verifier)).token).toMatch(/^rws_/)
    clock.advance(codeMs)
    await expect(redeem(verifier)).rejects.toEqual(refusedAs('unauthenticated'))
  })

  test('a callback counts in the browser that began, once, and for ten minutes', async () => {
    await using world = await start(databases, { signUp: 'anyone' })
    const { service, provider, clock } = world
    provider.user = ann
    const isCallback = ({ pathname }: URL) => pathname === `${apiRoot}/oidc/callback`
    const browser = new Browser()
    const { url } = await browser.open(world.startUrl({}), isCallback)
    expect((await new Browser().get(url)).status).toBe(401)
    const other = await browser.open(world.startUrl({}), isCallback)
    // The code of one log-in in the other one: PKCE tells them apart.
    const mixed = new URL(other.url)
    mixed.searchParams.set('code', url.searchParams.get('code')!)
    expect((await browser.get(mixed)).status).toBe(403)
    const late = await browser.open(world.startUrl({}), isCallback)
    clock.advance(flowMs)
    expect((await browser.get(late.url)).status).toBe(401)
    const fresh = await browser.open(world.startUrl({}), isCallback)
    expect((await browser.get(fresh.url)).status).toBe(302)
    expect((await browser.get(fresh.url)).status).toBe(401)
    expect(service.log.join('')).not.toContain(fresh.url.searchParams.get('code')!)
  })

  // What follows does not hang on the database.
  if (databases.kind !== 'libsql') return

  test('a browser is sent to pages of this service and to ports of its own machine alone', async () => {
    await using world = await start(databases)
    const status = async (query: Record<string, string>) =>
      (await fetch(world.startUrl(query), { redirect: 'manual' })).status
    for (const return_to of ['//evil.example', 'https://evil.example/', '/\\evil.example', 'jobs'])
      expect(await status({ return_to }), return_to).toBe(400)
    for (const redirect of [
      'http://evil.example/',
      'https://127.0.0.1/',
      'javascript:1',
      'http://localhost:1',
    ])
      expect(await status({ redirect, challenge }), redirect).toBe(400)
    expect(await status({ redirect: 'http://127.0.0.1:9/' })).toBe(400)
    expect(await status({ return_to: '/jobs' })).toBe(302)
  })

  test('keys of the provider are asked for once, and again when it signs with a new one', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    await using world = await start(databases, { signUp: 'anyone' })
    await world.logIn(ann)
    await world.logIn(ann)
    expect(world.provider.keyRequests()).toBe(1)
    // Unknown keys are asked for at most once a minute: a forger could make the service a flood otherwise.
    vi.setSystemTime(Date.now() + 61_000)
    await world.provider.rotate()
    expect((await world.logIn(ann)).person.email).toBe('ann@example.org')
    expect(world.provider.keyRequests()).toBe(2)
  })

  test('a no at the provider, and a provider that is away, are told as what they are', async () => {
    await using world = await start(databases, { signUp: 'anyone' })
    world.provider.user = undefined
    const { answer } = await world.program()
    expect(answer.get('error')).toBe('forbidden')
    expect(answer.get('error_description')).toMatch(/The lab did not let you in: access_denied/)
    await using away = await start(databases)
    away.where.issuer = 'http://127.0.0.1:9'
    const response = await fetch(away.startUrl({}), { redirect: 'manual' })
    expect(response.status).toBe(503)
    expect(await response.text()).toMatch(/The lab .* cannot be asked/)
  })

  test('the command line logs in by a browser, and says why when it is refused', async () => {
    await using world = await start(databases)
    world.provider.user = ann
    await world.invite('ann@example.org')
    const { code, verifier: own } = await inBrowser(() => codeByBrowser(world.service.url))
    const { token } = await world.service.nobody.call(oidc.tokenOfOidc, { body: { code, verifier: own } })
    expect((await world.service.as(token).call(people.whoAmI, {})).person.email).toBe('ann@example.org')
    world.provider.user = undefined
    await expect(inBrowser(() => codeByBrowser(world.service.url))).rejects.toThrow(/did not let you in/)
  })
})

/** Runs what prints an address, and opens the address. */
async function inBrowser<T>(work: () => Promise<T>): Promise<T> {
  const written = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    const url = /http\S+\/oidc\/start\S+/.exec(String(text))?.[0]
    if (url !== undefined) void new Browser().open(url)
    return true
  })
  try {
    return await work()
  } finally {
    written.mockRestore()
  }
}
