import { expect, test } from 'vitest'
import { listOrganisationAudit, listProjectAudit } from '../../src/api/control/audit.ts'
import { createKey, createOwnKey, listKeys, listOwnKeys, revokeKey } from '../../src/api/control/keys.ts'
import * as people from '../../src/api/control/people.ts'
import * as projects from '../../src/api/control/projects.ts'
import * as secondFactor from '../../src/api/control/second-factor.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { attemptWindowMs, signUpsMax } from '../../src/control/people/attempts.ts'
import { totpAt, totpStepMs } from '../../src/control/people/totp.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { addMember, fromBase32, startService } from './running.ts'

const inDefault = { params: { project: 'default' } }
const refusedAs = (code: string) => expect.objectContaining({ name: 'Refused', code })

onEveryDatabase((databases) => {
  test('the first owner may do everything, and nobody without a key anything', async () => {
    await using service = await startService(databases)
    const me = await service.owner.call(people.whoAmI, {})
    expect(me).toMatchObject({ with: 'key', person: { is_operator: true } })
    expect(me.projects).toMatchObject([{ name: 'default', role: 'admin' }])
    await expect(service.nobody.call(people.whoAmI, {})).rejects.toEqual(refusedAs('unauthenticated'))
    const stranger = service.as('rwk_00000000')
    await expect(stranger.call(people.whoAmI, {})).rejects.toEqual(refusedAs('unauthenticated'))
  })

  test('the first owner gives themselves a password with their key, and needs the old one from then on', async () => {
    await using service = await startService(databases)
    const set = (old: string, next: string) =>
      service.owner.call(people.changePassword, { body: { old, new: next } })
    await set('', 'correct horse battery')
    await expect(set('', 'something else entirely')).rejects.toEqual(refusedAs('forbidden'))
    const body = { email: 'owner@localhost', password: 'correct horse battery' }
    expect((await service.nobody.call(people.logIn, { body })).person.is_operator).toBe(true)
  })

  test('accounts are made by invitation, once, by the address that was invited', async () => {
    await using service = await startService(databases)
    const body = { email: 'ann@example.org', name: 'Ann', password: 'correct horse battery' }
    await expect(service.nobody.call(people.signUp, { body })).rejects.toEqual(refusedAs('forbidden'))
    const { token: invitation } = await service.owner.call(projects.createInvitation, {
      params: { organisation: 'main' },
      body: { email: 'Ann@Example.org', project: 'default', project_role: 'develop' },
    })
    const other = { ...body, email: 'eve@example.org', invitation }
    await expect(service.nobody.call(people.signUp, { body: other })).rejects.toEqual(refusedAs('not_found'))
    const { token } = await service.nobody.call(people.signUp, { body: { ...body, invitation } })
    const me = await service.as(token).call(people.whoAmI, {})
    expect(me.projects).toMatchObject([{ name: 'default', role: 'develop' }])
    const again = { ...body, email: 'ann@example.org', invitation }
    await expect(service.nobody.call(people.signUp, { body: again })).rejects.toEqual(refusedAs('conflict'))
  })

  test('an invitation that has expired lets nobody in', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const { token: invitation } = await service.owner.call(projects.createInvitation, {
      params: { organisation: 'main' },
      body: { email: 'ann@example.org', hours: 1 },
    })
    clock.advance(3600 * 1000)
    const body = { email: 'ann@example.org', name: 'Ann', password: 'correct horse battery', invitation }
    await expect(service.nobody.call(people.signUp, { body })).rejects.toEqual(refusedAs('expired'))
  })

  test('log-in takes the right password alone, and after too many wrong ones none for a while', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const { email, password } = await addMember(service, 'ann', 'develop')
    const logIn = (given: string) => service.nobody.call(people.logIn, { body: { email, password: given } })
    expect((await logIn(password)).person.email).toBe(email)
    for (let i = 0; i < 10; i++) await expect(logIn('wrong')).rejects.toEqual(refusedAs('unauthenticated'))
    await expect(logIn(password)).rejects.toEqual(refusedAs('rate_limited'))
    clock.advance(15 * 60_000)
    expect((await logIn(password)).token).toMatch(/^rws_/)
  })

  test('a session ends by log-out, by age, and for others by a new password', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const ann = await addMember(service, 'ann', 'develop')
    const logIn = (password: string) =>
      service.nobody.call(people.logIn, { body: { email: ann.email, password } })
    const second = service.as((await logIn(ann.password)).token)
    expect((await second.call(people.listSessions, {})).items.length).toBe(2)
    await second.call(people.changePassword, { body: { old: ann.password, new: 'another long word' } })
    await expect(ann.call(people.whoAmI, {})).rejects.toEqual(refusedAs('unauthenticated'))
    await expect(logIn(ann.password)).rejects.toEqual(refusedAs('unauthenticated'))
    await second.call(people.logOut, {})
    await expect(second.call(people.whoAmI, {})).rejects.toEqual(refusedAs('unauthenticated'))
    const third = service.as((await logIn('another long word')).token)
    clock.advance(30 * 24 * 3600 * 1000)
    await expect(third.call(people.whoAmI, {})).rejects.toEqual(refusedAs('unauthenticated'))
  })

  test('with a second factor a password alone lets nobody in, and no code counts twice', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const ann = await addMember(service, 'ann', 'develop')
    const { secret } = await ann.call(secondFactor.startTotp, { body: { password: ann.password } })
    const key = fromBase32(secret)
    const codeNow = () => totpAt(key, Math.floor(clock.unixMs() / totpStepMs))
    const logIn = (code?: string) =>
      service.nobody.call(people.logIn, {
        body: { email: ann.email, password: ann.password, ...(code && { code }) },
      })
    await logIn()
    const wrong = codeNow() === '000000' ? '000001' : '000000'
    await expect(ann.call(secondFactor.confirmTotp, { body: { code: wrong } })).rejects.toEqual(
      refusedAs('unauthenticated'),
    )
    await ann.call(secondFactor.confirmTotp, { body: { code: codeNow() } })
    await expect(logIn()).rejects.toEqual(refusedAs('second_factor_required'))
    await expect(logIn(codeNow())).rejects.toEqual(refusedAs('unauthenticated'))
    clock.advance(totpStepMs)
    const code = codeNow()
    expect((await logIn(code)).token).toMatch(/^rws_/)
    await expect(logIn(code)).rejects.toEqual(refusedAs('unauthenticated'))
  })

  test('a recovery code stands in for a lost phone once, and new ones end the old', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const ann = await addMember(service, 'ann', 'develop')
    const { codes, codeNow } = await withSecondFactor(ann, clock)
    expect(new Set(codes).size).toBe(secondFactor.recoveryCodeCount)
    const logIn = (recovery_code: string) =>
      service.nobody.call(people.logIn, { body: { email: ann.email, password: ann.password, recovery_code } })
    expect((await logIn(codes[0]!)).recovery_codes_left).toBe(9)
    await expect(logIn(codes[0]!)).rejects.toEqual(refusedAs('unauthenticated'))
    expect((await logIn(codes[1]!.toLowerCase().replaceAll('-', ' '))).recovery_codes_left).toBe(8)
    clock.advance(totpStepMs)
    const renewed = await ann.call(secondFactor.renewRecoveryCodes, { body: { code: codeNow() } })
    await expect(logIn(codes[2]!)).rejects.toEqual(refusedAs('unauthenticated'))
    await ann.call(secondFactor.removeTotp, { body: { recovery_code: renewed.recovery_codes[0]! } })
    const { password, email } = ann
    expect((await service.nobody.call(people.logIn, { body: { email, password } })).token).toMatch(/^rws_/)
    const rows = await service.store
      .db<{ recovery_codes: { code_sha256: string } }>()
      .selectFrom('recovery_codes')
      .selectAll()
      .execute()
    expect(rows).toEqual([])
  })

  test('of many who try one recovery code at the same time, one gets in', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const ann = await addMember(service, 'ann', 'develop')
    const { codes } = await withSecondFactor(ann, clock)
    const body = { email: ann.email, password: ann.password, recovery_code: codes[0]! }
    const tried = await Promise.allSettled(
      Array.from({ length: 5 }, () => service.nobody.call(people.logIn, { body })),
    )
    expect(tried.filter(({ status }) => status === 'fulfilled').length).toBe(1)
  })

  test('an owner takes the second factor off their own members alone, and the member is logged out', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const [ann, bob] = [
      await addMember(service, 'ann', 'develop'),
      await addMember(service, 'bob', undefined),
    ]
    await withSecondFactor(ann, clock)
    const params = { organisation: 'main', person: ann.email }
    await expect(bob.call(secondFactor.resetSecondFactor, { params })).rejects.toEqual(refusedAs('forbidden'))
    await service.owner.call(projects.setOrganisationMember, {
      params: { organisation: 'main', person: bob.email },
      body: { role: 'owner' },
    })
    await ann.call(projects.createOrganisation, { body: { name: 'anns' } })
    await expect(bob.call(secondFactor.resetSecondFactor, { params })).rejects.toEqual(refusedAs('forbidden'))
    await service.owner.call(secondFactor.resetSecondFactor, { params })
    await expect(ann.call(people.whoAmI, {})).rejects.toEqual(refusedAs('unauthenticated'))
    const body = { email: ann.email, password: ann.password }
    expect((await service.nobody.call(people.logIn, { body })).person.second_factor).toBe(false)
    const audit = await service.owner.call(listOrganisationAudit, { params: { organisation: 'main' } })
    expect(audit.items.map(({ action }) => action)).toContain('person.totp-reset')
  })

  test('one address asks for so many accounts and no more', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock, signUp: 'open' })
    const ask = (n: number) =>
      service.nobody.call(people.signUp, {
        body: { email: `p${n}@example.org`, name: 'P', password: 'correct horse battery' },
      })
    for (let n = 0; n < signUpsMax; n++) await ask(n)
    await expect(ask(100)).rejects.toEqual(refusedAs('rate_limited'))
    clock.advance(attemptWindowMs)
    expect((await ask(101)).person.email).toBe('p101@example.org')
  })

  test('each role may what the table says, and who is outside does not learn that the project exists', async () => {
    await using service = await startService(databases)
    const [guest, developer, admin] = [
      await addMember(service, 'guest', 'guest'),
      await addMember(service, 'dev', 'develop'),
      await addMember(service, 'admin', 'admin'),
    ]
    const outside = await addMember(service, 'outside', undefined)
    expect((await guest.call(projects.viewProject, inDefault)).role).toBe('guest')
    await expect(guest.call(listKeys, inDefault)).rejects.toEqual(refusedAs('forbidden'))
    await expect(
      developer.call(projects.editProject, { ...inDefault, body: { title: 'x' } }),
    ).rejects.toEqual(refusedAs('forbidden'))
    expect((await admin.call(projects.editProject, { ...inDefault, body: { title: 'x' } })).title).toBe('x')
    await expect(outside.call(projects.viewProject, inDefault)).rejects.toEqual(refusedAs('not_found'))
    expect((await outside.call(projects.listProjects, {})).items).toEqual([])
    await admin.call(projects.setProjectMember, {
      params: { project: 'default', person: outside.email },
      body: { role: 'guest' },
    })
    expect((await outside.call(projects.listProjects, {})).items.length).toBe(1)
  })

  test('an organisation keeps an owner', async () => {
    await using service = await startService(databases)
    const me = await service.owner.call(people.whoAmI, {})
    const remove = service.owner.call(projects.removeOrganisationMember, {
      params: { organisation: 'main', person: me.person.id },
    })
    await expect(remove).rejects.toEqual(refusedAs('conflict'))
    expect((await service.owner.call(projects.listProjects, {})).items.length).toBe(1)
  })

  test('a key may what its scopes say, in its project, until it is revoked or expires', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const developer = await addMember(service, 'dev', 'develop')
    const made = await developer.call(createKey, {
      ...inDefault,
      body: { name: 'ci', scopes: ['key:*'], days: 2 },
    })
    const key = service.as(made.key)
    expect((await key.call(listKeys, inDefault)).items).toMatchObject([
      { name: 'ci', shown: made.key.slice(0, 10) },
    ])
    await expect(key.call(projects.viewProject, inDefault)).rejects.toEqual(refusedAs('forbidden'))
    const wider = key.call(createKey, { ...inDefault, body: { name: 'wide', scopes: ['job:view'] } })
    await expect(wider).rejects.toEqual(refusedAs('forbidden'))
    await service.owner.call(projects.createProject, {
      params: { organisation: 'main' },
      body: { name: 'two' },
    })
    const ownerBound = await service.owner.call(createKey, { ...inDefault, body: { name: 'bound' } })
    const two = { params: { project: 'two' } }
    await expect(service.as(ownerBound.key).call(listKeys, two)).rejects.toEqual(refusedAs('not_found'))
    // Nor what its person has outside.
    await expect(service.as(ownerBound.key).call(listOwnKeys, {})).rejects.toEqual(refusedAs('forbidden'))
    await service.owner.call(revokeKey, { params: { project: 'default', key: ownerBound.id } })
    await expect(service.as(ownerBound.key).call(listKeys, inDefault)).rejects.toEqual(
      refusedAs('unauthenticated'),
    )
    clock.advance(2 * 24 * 3600 * 1000)
    await expect(key.call(listKeys, inDefault)).rejects.toEqual(refusedAs('unauthenticated'))
  })

  test('a key loses what its person loses', async () => {
    await using service = await startService(databases)
    const developer = await addMember(service, 'dev', 'develop')
    const own = service.as((await developer.call(createOwnKey, { body: { name: 'laptop' } })).key)
    expect((await own.call(projects.viewProject, inDefault)).role).toBe('develop')
    await service.owner.call(projects.removeOrganisationMember, {
      params: { organisation: 'main', person: developer.email },
    })
    await expect(own.call(projects.viewProject, inDefault)).rejects.toEqual(refusedAs('not_found'))
  })

  test('deeds are in the audit log with who did them, and no secret is there or in the log', async () => {
    await using service = await startService(databases)
    const developer = await addMember(service, 'dev', 'develop')
    const { key, id } = await developer.call(createKey, { ...inDefault, body: { name: 'ci' } })
    await service.as(key).call(projects.viewProject, inDefault)
    const entries = (await service.owner.call(listProjectAudit, inDefault)).items
    expect(entries[0]).toMatchObject({ action: 'key.create', subject: id, address: '127.0.0.1' })
    const everything = JSON.stringify(entries) + service.log.join('')
    for (const secret of [key, service.ownerKey, developer.password]) expect(everything).not.toContain(secret)
    expect(service.log.length).toBeGreaterThan(3)
  })
})

async function withSecondFactor(person: Awaited<ReturnType<typeof addMember>>, clock: ManualClock) {
  const { secret } = await person.call(secondFactor.startTotp, { body: { password: person.password } })
  const codeNow = () => totpAt(fromBase32(secret), Math.floor(clock.unixMs() / totpStepMs))
  const answer = await person.call(secondFactor.confirmTotp, { body: { code: codeNow() } })
  return { codes: answer.recovery_codes, codeNow }
}

test('one-time passwords are those of RFC 6238, appendix B', () => {
  const secret = Buffer.from('12345678901234567890')
  const of = (seconds: number) => totpAt(secret, Math.floor((seconds * 1000) / totpStepMs))
  expect([59, 1111111109, 1234567890, 20000000000].map(of)).toEqual(['287082', '081804', '005924', '353130'])
})
