import { expect, test } from 'vitest'
import { createKey, listKeys } from '../../src/api/control/keys.ts'
import { whoAmI } from '../../src/api/control/people.ts'
import { ManualClock } from '../../src/base/clock.ts'
import type { Watch } from '../../src/control/store/watched-driver.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { addMember, startService } from './running.ts'

const params = { project: 'default' }

onEveryDatabase((databases) => {
  /** As the database says it. */
  const code = databases.kind === 'libsql' ? 'SQLITE_FULL' : '53100'

  test('a database whose disk is full answers who reads, by key and by session, and says so to who writes', async () => {
    let isFull = false
    const watch: Watch = (text, call) => {
      if (isFull && /^(insert|update|delete)/.test(text))
        throw Object.assign(new Error('database or disk is full'), { code })
      return call()
    }
    const clock = new ManualClock(1_700_000_000_000)
    await using service = await startService(databases, { clock, watch })
    const session = await addMember(service, 'dev', 'develop')
    isFull = true
    clock.advance(3_600_000)
    for (const client of [service.owner, session, service.owner])
      expect(await client.call(whoAmI, {})).toBeDefined()
    expect((await service.owner.call(listKeys, { params })).items).toEqual([])
    const made = () => service.owner.call(createKey, { params, body: { name: 'ci', scopes: ['job:*'] } })
    await expect(made()).rejects.toMatchObject({
      ...{ code: 'disk_full', message: 'The disk of the service is full.' },
      fix: expect.stringMatching(/^Make room/),
    })
    const told = () => service.log.filter((line) => line.includes('last uses are not written down')).length
    expect(told()).toBe(1)
    isFull = false
    await made()
    isFull = true
    clock.advance(3_600_000)
    await service.owner.call(whoAmI, {})
    expect(told()).toBe(2)
  })
})
