import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { credentialsOf, sealedColumns } from '../../src/control/credentials/credentials.ts'
import { credentialsMigration } from '../../src/control/credentials/migration.ts'
import { Sealer } from '../../src/control/credentials/sealer.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { sendNotices } from '../../src/control/jobs/notices.ts'
import { onEveryDatabase, type TestDatabases } from '../store/databases.ts'

const webhook = 'https://hooks.example/T1/secret-part'

async function open(databases: TestDatabases) {
  const clock = new ManualClock(1_700_000_000_000)
  const store = await databases.open({ migrations: [...jobMigrations, credentialsMigration], clock })
  const sealer = new Sealer(Buffer.alloc(32, 7))
  const id = store.ids.next('credential')
  const columns = sealedColumns(sealer, id, { kind: 'slack', webhook_url: webhook })
  await credentialsOf(store).insert({ id, project_id: 'p', name: 'team', status: {}, ...columns })
  const jobs = new Jobs({ store, wake: () => undefined })
  const job = { notify: { slack: 'team', on: ['stopped'] } }
  const sent: string[] = []
  let fails = 0
  const pass = () =>
    sendNotices(store, sealer, 'me', async (url, text) => {
      if (fails-- > 0) throw new Error('no answer')
      sent.push(`${url} ${text}`)
    })
  return {
    clock,
    jobs,
    job,
    sent,
    pass,
    fail: (times: number) => {
      fails = times
    },
    [Symbol.asyncDispose]: () => store.close(),
  }
}

onEveryDatabase((databases) => {
  test('a message about a job is sent once, and again only while it is not answered', async () => {
    await using room = await open(databases)
    const { id } = await room.jobs.create('p', { file: { name: 'sleepy', run: ['true'], job: room.job } })
    expect(await room.pass()).toBe(0)
    await room.jobs.stop('p', id)
    room.fail(2)
    for (let round = 0; round < 3; round++) {
      await room.pass()
      room.clock.advance(60_000)
    }
    expect(room.sent).toEqual([
      `${webhook} Job sleepy is stopped: It was stopped before its turn came. (${id})`,
    ])
    expect(await room.pass()).toBe(0)
  })

  test('a message that nobody takes is given up, and the job says so without the address', async () => {
    await using room = await open(databases)
    const { id } = await room.jobs.create('p', { file: { run: ['true'], job: room.job } })
    const row = await room.jobs.stop('p', id)
    room.fail(100)
    for (let round = 0; round < 12; round++) {
      await room.pass()
      room.clock.advance(24 * 3_600_000)
    }
    const { rows } = await room.jobs.events(row, { limit: 100 })
    expect(rows.at(-1)).toMatchObject({
      kind: 'job.notice_failed',
      message: expect.stringContaining('no answer'),
    })
    expect(JSON.stringify(rows)).not.toContain('secret-part')
    expect(room.sent).toEqual([])
  })
})
