import { expect, test } from 'vitest'
import * as keys from '../../src/api/control/keys.ts'
import * as people from '../../src/api/control/people.ts'
import { editProject, setProjectMember, viewProject } from '../../src/api/control/projects.ts'
import { putBudget, removeBudget } from '../../src/api/control/usage.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { usageRoutes } from '../../src/control/usage/routes.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { addMember, startService } from './running.ts'

const params = { project: 'default' }
const forbidden = { code: 'forbidden' }
const dayMs = 24 * 3600 * 1000

onEveryDatabase((databases) => {
  test('a key makes no key of a higher role, nor does a person', async () => {
    await using service = await startService(databases)
    const admin = await addMember(service, 'ada', 'admin')
    const low = await admin.call(keys.createKey, { params, body: { name: 'low', role: 'develop' } })
    expect(low.role).toBe('develop')
    const asLow = service.as(low.key)
    const high = { params, body: { name: 'high', role: 'admin' as const } }
    await expect(asLow.call(keys.createKey, high)).rejects.toMatchObject(forbidden)
    const child = await asLow.call(keys.createKey, { params, body: { name: 'child' } })
    expect(child.role).toBe('develop')
    expect((await service.as(child.key).call(viewProject, { params })).role).toBe('develop')
    const developer = await addMember(service, 'dev', 'develop')
    await expect(developer.call(keys.createKey, high)).rejects.toMatchObject(forbidden)
    const shown = (await developer.call(keys.listKeys, { params })).items
    expect(shown.map(({ name, role }) => `${name} ${role}`)).toEqual(['low develop', 'child develop'])
  })

  test('a key of lower role changes no roles and no project', async () => {
    await using service = await startService(databases)
    const developer = await addMember(service, 'dev', 'develop')
    for (const role of ['guest', 'develop', 'maintain'] as const) {
      const { key } = await service.owner.call(keys.createKey, { params, body: { name: role, role } })
      const promoted = { params: { ...params, person: developer.email }, body: { role: 'admin' as const } }
      await expect(service.as(key).call(setProjectMember, promoted)).rejects.toMatchObject(forbidden)
      const edit = service.as(key).call(editProject, { params, body: { title: 'mine' } })
      await expect(edit).rejects.toMatchObject(forbidden)
    }
  })

  test('what a key makes ends with it: keys, and the sessions of its sign-in codes', async () => {
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock })
    const ofProject = await service.owner.call(keys.createKey, { params, body: { name: 'a', days: 1 } })
    const own = await service.owner.call(keys.createOwnKey, { body: { name: 'b', days: 1 } })
    const end = clock.unixMs() + dayMs
    clock.advance(1000)
    const [asProject, asOwn] = [service.as(ofProject.key), service.as(own.key)]
    expect(await asProject.call(keys.createKey, { params, body: { name: 'c' } })).toMatchObject({
      expires_at: end,
    })
    for (const days of [undefined, 1, 30]) {
      const body = { name: 'd', ...(days !== undefined && { days }) }
      expect(await asOwn.call(keys.createOwnKey, { body })).toMatchObject({ expires_at: end })
      expect(await asOwn.call(keys.createKey, { params, body })).toMatchObject({ expires_at: end })
    }
    const { code } = await asOwn.call(people.createSignInCode, {})
    expect(await service.nobody.call(people.useSignInCode, { body: { code } })).toMatchObject({
      expires_at: end,
    })
    const password = { old: '', new: 'a long word for ever' }
    await expect(asOwn.call(people.changePassword, { body: password })).rejects.toMatchObject(forbidden)
  })

  test('a key with limits or a budget makes no keys, and does not widen its own', async () => {
    await using service = await startService(databases, { routes: () => [usageRoutes(() => undefined)] })
    const limits = { requestsPerMinute: 2 }
    const limited = await service.owner.call(keys.createKey, { params, body: { name: 'slow', limits } })
    const asLimited = service.as(limited.key)
    await expect(
      asLimited.call(keys.createKey, { params, body: { name: 'x', limits } }),
    ).rejects.toMatchObject(forbidden)
    const wider = { params: { ...params, key: limited.id }, body: { limits: {} } }
    await expect(asLimited.call(keys.editKey, wider)).rejects.toMatchObject(forbidden)
    const poor = await service.owner.call(keys.createKey, { params, body: { name: 'poor' } })
    const asPoor = service.as(poor.key)
    const budget = { key: poor.id, per: 'day' as const, tokens: 100 }
    const { id } = await service.owner.call(putBudget, { params, body: budget })
    await expect(asPoor.call(keys.createKey, { params, body: { name: 'x' } })).rejects.toMatchObject(
      forbidden,
    )
    await expect(asPoor.call(putBudget, { params, body: { ...budget, tokens: 1e9 } })).rejects.toMatchObject(
      forbidden,
    )
    await expect(asPoor.call(removeBudget, { params: { ...params, budget: id } })).rejects.toMatchObject(
      forbidden,
    )
    const own = await service.owner.call(keys.createOwnKey, { body: { name: 'own', limits } })
    await expect(service.as(own.key).call(people.createSignInCode, {})).rejects.toMatchObject(forbidden)
  })

  test('a key without the scope neither sees, makes nor revokes the keys of its person', async () => {
    await using service = await startService(databases)
    const scopes = ['job:view']
    const { key, id } = await service.owner.call(keys.createOwnKey, { body: { name: 'narrow', scopes } })
    const narrow = service.as(key)
    await expect(narrow.call(keys.listOwnKeys, {})).rejects.toMatchObject(forbidden)
    await expect(narrow.call(keys.createOwnKey, { body: { name: 'n', scopes } })).rejects.toMatchObject(
      forbidden,
    )
    await expect(narrow.call(keys.revokeOwnKey, { params: { key: id } })).rejects.toMatchObject(forbidden)
  })

  test('a key is not told again what another key of its person was told once', async () => {
    await using service = await startService(databases)
    const ask = { params, body: { name: 'ci' }, headers: { 'idempotency-key': 'ci-1' } }
    const { key } = await service.owner.call(keys.createKey, ask)
    const low = await service.owner.call(keys.createKey, { params, body: { name: 'low', role: 'develop' } })
    expect((await service.as(low.key).call(keys.createKey, ask)).key).not.toBe(key)
  })
})
