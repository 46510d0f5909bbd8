import { expect, test } from 'vitest'
import { apiRoot } from '../../src/api/control/endpoint.ts'
import { createKey, createOwnKey } from '../../src/api/control/keys.ts'
import { createSignInCode } from '../../src/api/control/people.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { type RunningService, startService } from './running.ts'

/** As a browser does it, which keeps the cookie. */
async function use({ url }: RunningService, code: string): Promise<{ status: number; cookie: string }> {
  const answer = await fetch(`${url}${apiRoot}/sign-in-codes/use`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ code }),
  })
  return { status: answer.status, cookie: answer.headers.get('set-cookie') ?? '' }
}

onEveryDatabase((databases) => {
  test('a code signs a browser in once, as who made it', async () => {
    await using service = await startService(databases)
    const { code } = await service.owner.call(createSignInCode, {})
    const both = await Promise.all([use(service, code), use(service, code)])
    expect(both.map(({ status }) => status).sort()).toEqual([200, 401])
    const { cookie } = both.find(({ status }) => status === 200)!
    expect(cookie).toMatch(/^ropeway_session=rws_[\w-]+; Path=\/; HttpOnly; SameSite=Strict; Max-Age=\d+$/)
    const asked = await fetch(`${service.url}${apiRoot}/whoami`, {
      headers: { cookie: cookie.split(';')[0]! },
    })
    expect(await asked.json()).toMatchObject({ with: 'session', person: { is_operator: true } })
    expect(service.log.join('\n')).not.toContain(code)
  })

  test('a code that is too old, or none, signs nobody in', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const { code, expires_at } = await service.owner.call(createSignInCode, {})
    clock.advance(expires_at - clock.unixMs())
    expect((await use(service, code)).status).toBe(401)
    expect((await use(service, 'rwb_guessed')).status).toBe(401)
  })

  test('a key that may less than its person makes none', async () => {
    await using service = await startService(databases)
    const refused = { code: 'forbidden' }
    const params = { project: 'default' }
    const ofProject = await service.owner.call(createKey, { params, body: { name: 'ci', scopes: ['*'] } })
    await expect(service.as(ofProject.key).call(createSignInCode, {})).rejects.toMatchObject(refused)
    const narrow = await service.owner.call(createOwnKey, { body: { name: 'me', scopes: ['job:*'] } })
    await expect(service.as(narrow.key).call(createSignInCode, {})).rejects.toMatchObject(refused)
    const own = await service.owner.call(createOwnKey, { body: { name: 'all', scopes: ['*'] } })
    expect(await service.as(own.key).call(createSignInCode, {})).toHaveProperty('code')
  })
})
