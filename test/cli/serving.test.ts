/** The gateway inside the service: who may ask it. */
import { expect, test } from 'vitest'
import { createKey, revokeKey } from '../../src/api/control/keys.ts'
import { removeProjectMember, setProjectMember } from '../../src/api/control/projects.ts'
import { addMember } from '../service/running.ts'
import { workbench } from './command-line.ts'

const params = { project: 'default' }

test('a key asks models for as long as its person is in the project, and it is not revoked', async () => {
  await using bench = await workbench()
  const { service } = bench
  const ada = await addMember(service, 'ada', 'develop')
  const { key, id } = await ada.call(createKey, { params, body: { name: 'app' } })
  const asked = async () => {
    const headers = { authorization: `Bearer ${key}` }
    return (await fetch(`${service.url}/v1/models`, { headers })).status
  }
  expect(await asked()).toBe(200)
  const them = { params: { ...params, person: ada.email } }
  await service.owner.call(removeProjectMember, them)
  expect(await asked()).toBe(401)
  await service.owner.call(setProjectMember, { ...them, body: { role: 'guest' } })
  expect(await asked()).toBe(200)
  await service.owner.call(revokeKey, { params: { ...params, key: id } })
  expect(await asked()).toBe(401)
})
