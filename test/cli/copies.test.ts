/** `backup`, `restore`, and `migrate`, as they are typed. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { migrations } from '../../src/cli/service-parts.ts'
import { keyByHash } from '../../src/control/keys/keys.ts'
import { projectOf } from '../../src/control/projects/projects.ts'
import { sha256 } from '../../src/control/service/tokens.ts'
import { digestsOf } from '../../src/control/store/copy.ts'
import { openStore } from '../../src/control/store/store.ts'
import { PostgresServer, postgresMissing } from '../store/postgres-server.ts'
import { ropeway, type Workbench, workbench } from './command-line.ts'

let bench: Workbench
let data: string[]
beforeAll(async () => {
  bench = await workbench()
  await ropeway(['project', 'create', 'kept'])
  data = ['--data', join(bench.folder, 'service'), '--database', join(bench.folder, 'ropeway.db')]
})
afterAll(() => bench[Symbol.asyncDispose]())

/** Whether the database at `path` knows the project and the owner's key. */
async function holds(path: string): Promise<boolean> {
  await using store = await openStore(path, { migrations, clock: systemClock })
  const key = await keyByHash(store, sha256(bench.service.ownerKey), { warn: () => undefined })
  return (await projectOf(store, 'kept')) !== undefined && key !== undefined
}

test('a backup made while the service runs is restored into another folder, and never over anything', async () => {
  const backup = join(bench.folder, 'backup')
  const workspace = join(bench.folder, 'service', 'jobs', 'job_1', 'workspace')
  mkdirSync(workspace, { recursive: true })
  spawnSync('mkfifo', [join(workspace, 'pipe')])
  expect(await ropeway(['backup', backup, ...data])).toMatchObject({
    code: 0,
    err: expect.stringMatching(/Backed up \d+ rows.*pipes, sockets and devices \(1, such as jobs.*pipe\)/s),
  })
  expect((await ropeway(['backup', backup, ...data])).code).not.toBe(0)
  const other = join(bench.folder, 'restored')
  expect((await ropeway(['restore', backup, '--data', other])).code).toBe(0)
  expect(await holds(join(other, 'ropeway.db'))).toBe(true)
  expect((await ropeway(['restore', backup, '--data', other])).code).not.toBe(0)
  expect(
    (await ropeway(['restore', join(bench.folder, 'none'), '--data', join(bench.folder, 'x')])).code,
  ).toBe(2)
})

test('migrate copies every row into an empty database and refuses one that is not', async () => {
  const to = join(bench.folder, 'new', 'ropeway.db')
  const moved = await ropeway(['migrate', '--to', to, ...data])
  expect(moved).toMatchObject({ code: 0, err: expect.stringMatching(/every row arrived/) })
  expect(await holds(to)).toBe(true)
  expect((await ropeway(['migrate', '--to', to, ...data])).code).not.toBe(0)
  const missing = join(bench.folder, 'nothing', 'ropeway.db')
  const none = await ropeway(['migrate', '--to', `${to}2`, '--data', bench.folder, '--database', missing])
  expect(none.code).toBe(3)
  expect(existsSync(missing)).toBe(false)
})

test.skipIf(postgresMissing !== undefined)(
  'migrate moves a service with all of its nouns to PostgreSQL, where it goes on, and back into a file',
  async () => {
    await using server = await PostgresServer.start()
    const url = await server.database()
    const digests = async (place: string) => {
      await using store = await openStore(place, { migrations, clock: systemClock })
      return await digestsOf(store)
    }
    const before = await digests(join(bench.folder, 'ropeway.db'))
    expect((await ropeway(['migrate', '--to', url, ...data])).code).toBe(0)
    expect(await digests(url)).toEqual(before)
    // The key is used there, which is written down.
    expect(await holds(url)).toBe(true)
    const moved = await digests(url)
    const again = await ropeway(['migrate', '--to', url, ...data])
    expect(again).toMatchObject({ code: 6, err: expect.stringMatching(/is not empty/) })
    const back = join(bench.folder, 'back', 'ropeway.db')
    expect((await ropeway(['migrate', '--to', back, '--data', bench.folder, '--database', url])).code).toBe(0)
    expect(await digests(back)).toEqual(moved)
  },
)
