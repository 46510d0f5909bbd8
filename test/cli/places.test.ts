/** Organisations, projects, sessions, clusters, quotas and prices on the command line. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ropeway, type Workbench, workbench } from './command-line.ts'

let bench: Workbench
beforeAll(async () => {
  bench = await workbench()
})
afterAll(() => bench[Symbol.asyncDispose]())

test('an invitation that was taken back lets nobody in, and one for a person who is in already is accepted', async () => {
  const { url } = bench.service
  const [first] = (await ropeway(['org', 'invite', 'main', 'bob@example.org', '--json'])).json
  expect((await ropeway(['org', 'invitations', 'main'])).out).toMatch(/bob@example.org +member/)
  expect((await ropeway(['org', 'withdraw', 'main', 'bob@'])).code).toBe(0)
  const signup = (token: string) =>
    ropeway(
      ['signup', url, '--email', 'bob@example.org', '--invitation', token, '--name', 'bob'],
      'a long word of bob',
    )
  expect((await signup(first.token)).code).not.toBe(0)
  const second = (await ropeway(['org', 'invite', 'main', 'bob@example.org'])).out.trim()
  expect((await signup(second)).code).toBe(0)
  await ropeway(['org', 'create', 'lab', '--context', 'local'])
  const third = (await ropeway(['org', 'invite', 'lab', 'bob@example.org', '--context', 'local'])).out.trim()
  expect((await ropeway(['org', 'accept', third, '--context', 'bob'])).out).toMatch(/NAME +lab/)
  expect((await ropeway(['orgs', '-q', '--context', 'bob'])).out.trim().split('\n')).toHaveLength(2)
  await ropeway(['context', 'use', 'local'])
})

test('titles of organisations and projects are changed, and events say what happened in a project', async () => {
  expect((await ropeway(['org', 'edit', 'lab', '--title', 'The lab'])).code).toBe(0)
  expect((await ropeway(['organisation', 'view', 'lab', '--json'])).json).toMatchObject([
    { title: 'The lab' },
  ])
  expect((await ropeway(['project', 'edit', '--title', 'The first'])).code).toBe(0)
  expect((await ropeway(['projects', 'view', '--json'])).json).toMatchObject([{ title: 'The first' }])
  await ropeway(['quota', 'set', 'cpu', '3'])
  const events = (await ropeway(['project', 'events', '--limit', '1', '--json'])).json
  expect(events).toMatchObject([{ kind: 'quota.set', message: 'The project may use 3 of cpu.' }])
  const other = await ropeway(['project', 'events', '--of', 'project_none', '--json'])
  expect(other).toMatchObject({ code: 0, out: '' })
})

test('sessions are listed, and one that is ended asks for a log-in', async () => {
  const [own] = (await ropeway(['session', '--json', '--context', 'bob'])).json
  expect(own).toMatchObject({ is_this: true, client: 'ropeway command line' })
  expect((await ropeway(['session', 'end', own.id, '--context', 'bob'])).code).toBe(0)
  expect((await ropeway(['session', '--context', 'bob'])).code).toBe(4)
  expect((await ropeway(['session', 'end', own.id])).code).toBe(3)
})

test('limits of a key are changed one by one, or taken away', async () => {
  await ropeway(['key', 'create', 'web', '--requests-per-minute', '5', '--concurrent', '2'])
  const edit = async (...flags: string[]) =>
    (await ropeway(['key', 'edit', 'web', '--json', ...flags])).json[0]
  expect(await edit('--concurrent', '3')).toMatchObject({ limits: { requestsPerMinute: 5, concurrent: 3 } })
  expect((await edit('--no-limits', '--tokens-per-minute', '9')).limits).toEqual({ tokensPerMinute: 9 })
  expect(await edit('--name', 'site')).toMatchObject({ name: 'site', limits: { tokensPerMinute: 9 } })
})

test('clusters and quotas are made, seen, changed and deleted', async () => {
  const cluster = async (...words: string[]) => await ropeway(['cluster', ...words])
  expect(
    (await cluster('create', 'cellar', '--slots', 'cpu=4', '--slots', 'h100=2', '--no-open')).out,
  ).toMatch(/DEVICES +0\/4 cpu, 0\/2 h100\nNEW JOBS +no/)
  expect((await cluster('create', 'cellar', '--slots', 'cpu=4')).code).toBe(6)
  expect((await cluster('edit', 'cellar', '--open', '--slots', 'cpu=8', '--json')).json).toMatchObject([
    { slots: { cpu: 8 }, open: true },
  ])
  expect((await cluster('view', 'cellar', '-q')).out).toMatch(/^clu_/)
  expect((await cluster('delete', 'cellar', '-y')).code).toBe(0)
  expect((await cluster('view', 'cellar')).code).toBe(3)
  expect((await ropeway(['quota', 'view', 'cpu', '--json'])).json).toMatchObject([{ devices: 3, used: 0 }])
  expect((await ropeway(['quota', 'delete', 'cpu'])).code).toBe(0)
  expect((await ropeway(['quota', 'view', 'cpu'])).code).toBe(3)
})

test('prices are set one by one or all by a file, and only by who runs the service', async () => {
  expect((await ropeway(['prices', 'set', 'chat', '--input', '2', '--output', '6'])).code).toBe(0)
  expect((await ropeway(['price', 'set', '*', '--per-hour', '1.5'])).code).toBe(0)
  expect(
    (await ropeway(['price', 'set', 'chat', '--input', '3', '--output', '6', '--cached', '1'])).code,
  ).toBe(0)
  expect((await ropeway(['prices', '--json'])).json).toEqual([
    {
      models: [{ model: 'chat', inputPerMillion: 3, cachedPerMillion: 1, outputPerMillion: 6 }],
      devices: [{ device: '*', perHour: 1.5 }],
    },
  ])
  expect((await ropeway(['price'])).out).toMatch(/chat +3 +1 +6/)
  expect((await ropeway(['price', 'set', 'chat', '--input', '3'])).code).toBe(2)
  expect(
    (await ropeway(['price', 'set', 'chat', '--input', '3', '--output', '1', '--per-hour', '2'])).code,
  ).toBe(2)
  expect((await ropeway(['price', 'delete', '*'])).code).toBe(0)
  expect((await ropeway(['price', 'delete', '*'])).code).toBe(3)
  const path = join(bench.folder, 'prices.yml')
  writeFileSync(path, 'models: []\ndevices: [{device: cpu, perHour: 0.1}]\n')
  expect((await ropeway(['price', 'set', '-f', path])).out).toMatch(/cpu.* 0\.1/)
  writeFileSync(path, 'models: []\ndevices: [{device: cpu, perHour: many}]\n')
  expect(await ropeway(['price', 'set', '-f', path])).toMatchObject({
    code: 2,
    err: expect.stringContaining('perHour'),
  })
  const key = (await ropeway(['key', 'create', 'limited', '--role', 'develop'])).out.trim()
  await ropeway(['login', bench.service.url, '--key', '--name', 'limited'], key)
  expect((await ropeway(['price', 'set', '-f', path])).code).toBe(4)
})
