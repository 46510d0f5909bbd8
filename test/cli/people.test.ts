/** Accounts, contexts, organisations, keys and the audit on the command line. */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readContexts } from '../../src/cli/contexts.ts'
import { totpAt, totpStepMs } from '../../src/control/people/totp.ts'
import { fromBase32 } from '../service/running.ts'
import { ropeway, type Workbench, workbench } from './command-line.ts'

let bench: Workbench
let url: string
beforeAll(async () => {
  bench = await workbench()
  url = bench.service.url
})
afterAll(() => bench[Symbol.asyncDispose]())

test('who is invited signs up, is logged in, and belongs to the project with the role of the invitation', async () => {
  const invited = await ropeway([
    'org',
    'invite',
    'main',
    'ann@example.org',
    '--to-project',
    'default',
    '--project-role',
    'develop',
    '--json',
  ])
  expect(invited.code).toBe(0)
  const { token } = invited.json[0]
  const wrong = await ropeway(
    ['signup', url, '--email', 'ann@example.org', '--invitation', token, '--name', 'ann'],
    'short\n',
  )
  expect(wrong).toMatchObject({ code: 2, err: expect.stringContaining('password') })
  const signed = await ropeway(
    ['signup', url, '--email', 'ann@example.org', '--invitation', token, '--name', 'ann'],
    'the long word of ann\n',
  )
  expect(signed).toMatchObject({ code: 0, out: '' })
  expect(readContexts()).toMatchObject({ current: 'ann', contexts: { ann: { url, project: 'default' } } })
  const [me] = (await ropeway(['whoami', '--json'])).json
  expect(me).toMatchObject({
    person: { email: 'ann@example.org' },
    with: 'session',
    projects: [{ name: 'default', role: 'develop' }],
  })
  expect((await ropeway(['org', 'members', 'main', '--context', 'local'])).out).toMatch(
    /ann@example.org +ann +member/,
  )
})

test('a password is changed, the old one is refused then, and logging out ends the session', async () => {
  const changed = await ropeway(
    ['password', '--context', 'ann'],
    'the long word of ann\nanother long word of ann\n',
  )
  expect(changed).toMatchObject({ code: 0, err: expect.stringContaining('changed') })
  const old = await ropeway(
    ['login', url, '--email', 'ann@example.org', '--name', 'ann'],
    'the long word of ann',
  )
  expect(old.code).toBe(4)
  const login = ['login', url, '--email', 'ann@example.org', '--name', 'ann']
  expect((await ropeway(login, 'another long word of ann\n')).code).toBe(0)
  const { token } = readContexts().contexts.ann!
  expect((await ropeway(['logout', '--context', 'ann'])).code).toBe(0)
  expect(readContexts().contexts.ann).toEqual({ url, project: 'default' })
  expect((await ropeway(['whoami', '--context', 'ann'])).code).toBe(4)
  const { whoAmI } = await import('../../src/api/control/people.ts')
  await expect(bench.service.as(token!).call(whoAmI, {})).rejects.toMatchObject({ code: 'unauthenticated' })
})

test('a password goes to https or to this machine alone', async () => {
  const refused = await ropeway(['login', 'http://example.org', '--email', 'a@b.org'], 'a password of mine')
  expect(refused).toMatchObject({ code: 2, err: expect.stringContaining('https://') })
})

test('contexts are listed, used and removed, and a name that is none ends with 3', async () => {
  await ropeway(['context', 'use', 'local'])
  const [first, second] = (await ropeway(['context', '--json'])).json
  expect([first, second]).toMatchObject([
    { id: 'local', current: true, logged_in: true },
    { id: 'ann', current: false, logged_in: false },
  ])
  expect((await ropeway(['context', 'use', 'nowhere'])).code).toBe(3)
  expect((await ropeway(['whoami', '--context', 'nowhere'])).code).toBe(3)
  expect((await ropeway(['context', 'remove', 'ann'])).code).toBe(0)
  expect((await ropeway(['context', '-q'])).out).toBe('local\n')
  const path = join(process.env.ROPEWAY_HOME!, 'contexts.json')
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(readFileSync(path, 'utf8')).toContain(bench.service.ownerKey)
})

test('an organisation is made, its members change roles and leave, and its last owner stays', async () => {
  expect((await ropeway(['org', 'create', 'lab', '-q'])).out).toMatch(/^org/)
  expect((await ropeway(['org', '--json'])).json.map(({ name }) => name)).toEqual(['main', 'lab'])
  expect((await ropeway(['org', 'set-role', 'main', 'ann@example.org', 'owner'])).code).toBe(0)
  expect((await ropeway(['org', 'set-role', 'main', 'ann@example.org', 'member'])).code).toBe(0)
  const [me] = (await ropeway(['whoami', '--json'])).json
  const last = await ropeway(['org', 'remove-member', 'lab', me.person.email, '-y'])
  expect(last.code).toBe(6)
  const unsaid = await ropeway(['org', 'remove-member', 'main', 'ann@example.org'])
  expect(unsaid).toMatchObject({ code: 2, err: expect.stringContaining('-y') })
  expect((await ropeway(['org', 'remove-member', 'main', 'ann@example.org', '-y'])).code).toBe(0)
  const { out } = await ropeway(['org', 'members', 'main'])
  expect(out).not.toContain('ann@example.org')
})

test('a key is shown once, does what its scopes say, and stops when it is revoked', async () => {
  const made = await ropeway([
    'key',
    'create',
    'ci',
    '--scope',
    'job:view',
    '--days',
    '3',
    '--tokens-per-minute',
    '10',
  ])
  const key = made.out.trim()
  expect(key).toMatch(/^rwk_/)
  const listed = await ropeway(['key', 'list'])
  expect(listed.out).toMatch(/ci +rwk_[\w-]+\.\.\. +admin +job:view/)
  expect(listed.out).not.toContain(key)
  const login = await ropeway(['login', url, '--key', '--name', 'ci'], `${key}\n`)
  expect(login.code).toBe(0)
  expect((await ropeway(['job', '--json'])).code).toBe(0)
  expect((await ropeway(['key', 'create', 'more', '--context', 'ci'])).code).toBe(4)
  expect((await ropeway(['key', 'revoke', 'c', '-y', '--context', 'local'])).code).toBe(0)
  expect((await ropeway(['job', '--context', 'ci'])).code).toBe(4)
  await ropeway(['context', 'use', 'local'])
})

test('a key of a person’s own works in all projects and is listed apart', async () => {
  const key = (await ropeway(['key', 'create', 'mine', '--own'])).out.trim()
  expect((await ropeway(['key', 'list', '--own'])).out).toMatch(/mine/)
  expect((await ropeway(['key', 'list'])).out).not.toMatch(/mine/)
  expect((await ropeway(['key', 'revoke', 'mine', '--own', '-y'])).code).toBe(0)
  await expect(ropeway(['login', url, '--key', '--name', 'mine'], key)).resolves.toMatchObject({ code: 4 })
})

test('the audit says who did what, of the project and of the organisation', async () => {
  const of = await ropeway(['audit', '--json', '--limit', '2'])
  expect(of.json).toHaveLength(2)
  expect(of.json[0].at).toBeGreaterThanOrEqual(of.json[1].at)
  const { json } = await ropeway(['audit', '--json'])
  expect(json.map(({ action }) => action)).toContain('key.create')
  const whole = (await ropeway(['org', 'audit', 'main', '--json'])).json.map(({ action }) => action)
  expect(whole).toContain('organisation-member.set')
  expect((await ropeway(['audit'])).out).toMatch(/^AT +PROJECT +PERSON +WITH +ACTION +SUBJECT +FROM\n/)
  expect(JSON.stringify(json)).not.toMatch(/rwk_[\w-]{20}/)
  const everywhere = await ropeway(['audit', '--everywhere', '--json'])
  expect(everywhere.json.map(({ project }) => project)).toContain(null)
})

test('a second factor is set up on the command line, and a recovery code takes it off', async () => {
  const { token } = (
    await ropeway(['org', 'invite', 'main', 'cleo@example.org', '--json', '--context', 'local'])
  ).json[0]
  const words = 'the long word of cleo\n'
  const args = ['signup', url, '--email', 'cleo@example.org', '--invitation', token, '--name', 'cleo']
  await ropeway(args, words)
  const [started] = (await ropeway(['second-factor', 'on', '--json', '--context', 'cleo'], words)).json
  expect(started.uri).toMatch(/^otpauth:\/\/totp\/.*cleo/)
  const step = Math.floor(bench.service.clock.unixMs() / totpStepMs)
  const code = totpAt(fromBase32(started.id), step)
  const confirmed = await ropeway(['second-factor', 'confirm', '-q', '--context', 'cleo'], `${code}\n`)
  const codes = confirmed.out.trim().split('\n')
  expect(codes.length).toBe(10)
  const login = await ropeway(['login', url, '--email', 'cleo@example.org', '--name', 'cleo'], words)
  expect(login).toMatchObject({ code: 4, err: expect.stringContaining('second factor') })
  const off = await ropeway(['second-factor', 'off', '--context', 'cleo'], `${codes[0]}\n`)
  expect(off).toMatchObject({ code: 0, err: expect.stringContaining('alone') })
  expect((await ropeway(['login', url, '--email', 'cleo@example.org', '--name', 'cleo'], words)).code).toBe(0)
})
