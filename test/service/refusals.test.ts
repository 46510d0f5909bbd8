import { expect, test } from 'vitest'
import { createKey, listKeys } from '../../src/api/control/keys.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { startService } from './running.ts'

onEveryDatabase((databases) => {
  test('a field that is none is named, with the one that was meant, in bodies and queries', async () => {
    await using service = await startService(databases)
    const params = { project: 'default' }
    const made = (body: object) => service.owner.call(createKey, { params, body: body as never })
    await expect(made({ name: 'ci', scope: ['job:*'] })).rejects.toMatchObject({
      ...{ code: 'invalid_request', param: 'scope' },
      message: 'body, scope: Unknown field; did you mean scopes?',
    })
    await expect(made({ name: 'ci', scopes: ['job:*'], colour: 1 })).rejects.toMatchObject({
      message: 'body, colour: Unknown field.',
    })
    await expect(made({ name: 7, scopes: ['job:*'] })).rejects.toMatchObject({
      ...{ code: 'invalid_request', param: 'name' },
      message: expect.stringMatching(/^body, name: .*string/),
    })
    const listed = service.owner.call(listKeys, { params, query: { limits: 3 } as never })
    await expect(listed).rejects.toMatchObject({
      message: 'querystring, limits: Unknown field; did you mean limit?',
    })
  })

  test('an address that cannot be read is refused in the shape of what would be there', async () => {
    await using service = await startService(databases)
    const asked = async (path: string) => {
      const answer = await fetch(`${service.url}${path}`)
      return {
        status: answer.status,
        id: answer.headers.get('x-request-id'),
        ...((await answer.json()) as object),
      }
    }
    const own = await asked('/api/v1/projects/%ff')
    expect(own).toMatchObject({ status: 400, error: { code: 'invalid_request', request_id: own.id } })
    const long = await asked(`/api/v1/projects/${'a'.repeat(400)}`)
    expect(long).toMatchObject({ status: 400, error: { code: 'invalid_request', request_id: long.id } })
    const ofOpenAi = await asked('/v1/models/%ff')
    expect(ofOpenAi).toMatchObject({
      status: 400,
      error: { code: 'invalid_request', type: 'invalid_request_error', param: null },
    })
    expect(ofOpenAi.id).toMatch(/^req_/)
  })
})
