/** What a backup makes of the files of a service in use, and a restore of a backup that is not whole. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { makeBackup, restoreBackup } from '../../src/control/backup/backup.ts'
import { openStore } from '../../src/control/store/store.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-backup-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))
const clock = new ManualClock(1_700_000_000_000)
const migrations = [] as const

/** A data folder, and what backs it up and restores it beside it. */
async function service(name: string) {
  const base = join(scratch, name)
  const folder = join(base, 'data')
  const workspace = join(folder, 'jobs', 'job_1', 'workspace')
  mkdirSync(workspace, { recursive: true })
  const store = await openStore(join(folder, 'ropeway.db'), { migrations, clock })
  return {
    ...{ base, folder, workspace, store },
    backup: async (target = 'backup') => {
      const made = await makeBackup(store, { folder, target: join(base, target), migrations })
      return { ...made, target: join(base, target) }
    },
    restore: async (source: string, into = join(base, 'restored')) => {
      await restoreBackup(source, { folder: into, database: join(into, 'ropeway.db'), migrations, clock })
      return into
    },
    [Symbol.asyncDispose]: () => store.close(),
  }
}

test('a backup passes over pipes, sockets and names that are no text, and says so', async () => {
  await using one = await service('special')
  const socket = createServer().listen(join(one.workspace, 'socket'))
  await once(socket, 'listening')
  spawnSync('mkfifo', [join(one.workspace, 'pipe')])
  spawnSync('sh', ['-c', 'echo lost > "$(printf \'n\\377me\')"'], { cwd: one.workspace })
  writeFileSync(join(one.workspace, 'result'), 'kept', { mode: 0o640 })
  const { target, passedOver } = await one.backup()
  const inside = (name: string) => join('jobs', 'job_1', 'workspace', name)
  expect(passedOver.toSorted((a, b) => (a.path < b.path ? -1 : 1))).toEqual([
    { path: inside('n\ufffdme'), why: 'unreadable' },
    { path: inside('pipe'), why: 'special' },
    { path: inside('socket'), why: 'special' },
  ])
  const restored = await one.restore(target)
  expect(readdirSync(join(restored, inside('.')))).toEqual(['result'])
  expect(statSync(join(restored, inside('result'))).mode & 0o777).toBe(0o640)
  socket.close()
})

test('a backup goes well beside a job that makes and removes files all the time', async () => {
  await using one = await service('busy')
  const names = Array.from({ length: 40 }, (_, i) => `f${i}`).join(' ')
  const script = `echo begun; while :; do mkdir -p d; for f in ${names}; do echo $f > d/$f; done; rm -rf d; done`
  const job = spawn('sh', ['-c', script], { cwd: one.workspace, stdio: ['ignore', 'pipe', 'ignore'] })
  try {
    await once(job.stdout, 'data')
    const gone: string[] = []
    for (let round = 0; round < 200 && gone.length === 0; round++) {
      const { target, passedOver } = await one.backup(`b${round}`)
      gone.push(...passedOver.filter(({ why }) => why === 'gone').map(({ path }) => path))
      await one.restore(target, join(one.base, `r${round}`))
    }
    expect(gone[0]).toMatch(/^jobs\/job_1\/workspace\/d/)
  } finally {
    job.kill('SIGKILL')
  }
})

test('links are restored as they were, and compared', async () => {
  await using one = await service('links')
  writeFileSync(join(one.workspace, 'step-1'), 'one')
  for (const [link, to] of [
    ['latest', 'step-1'],
    ['up', '../../..'],
    ['nowhere', '/none'],
  ] as const)
    symlinkSync(to, join(one.workspace, link))
  const { target } = await one.backup()
  const restored = join(await one.restore(target), 'jobs', 'job_1', 'workspace')
  expect(['latest', 'up', 'nowhere'].map((name) => readlinkSync(join(restored, name)))).toEqual([
    ...['step-1', '../../..', '/none'],
  ])
  const changed = join(target, 'files', 'jobs', 'job_1', 'workspace', 'latest')
  rmSync(changed)
  symlinkSync('/etc/hostname', changed)
  await expect(one.restore(target, join(one.base, 'other'))).rejects.toThrow(
    /latest is not what the backup says/,
  )
})

test('a part of the data folder that is a link to another disk is in the backup', async () => {
  await using one = await service('disks')
  const disk = join(one.base, 'disk')
  mkdirSync(disk)
  writeFileSync(join(disk, 'one'), 'content')
  symlinkSync(disk, join(one.folder, 'objects'))
  const { target } = await one.backup()
  rmSync(disk, { recursive: true })
  expect(readFileSync(join(await one.restore(target), 'objects', 'one'), 'utf8')).toBe('content')
})

test('locks of this machine are in no backup', async () => {
  await using one = await service('locks')
  mkdirSync(join(one.folder, 'usage'))
  for (const name of [
    'lock.db',
    'lock.db-journal',
    'ropeway.db.reserve',
    'usage/lock.db',
    'usage/ledger.pid',
    'usage/ledger.id',
  ])
    writeFileSync(join(one.folder, name), 'x')
  const { target } = await one.backup()
  const files = join(target, 'files')
  expect([readdirSync(files), readdirSync(join(files, 'usage'))]).toEqual([['jobs', 'usage'], ['ledger.id']])
})

test('a backup that fails leaves nothing of what is secret', async () => {
  await using one = await service('fails')
  mkdirSync(join(one.folder, 'objects'))
  spawnSync('sh', ['-c', 'echo lost > "$(printf \'n\\377me\')"'], { cwd: join(one.folder, 'objects') })
  await expect(one.backup()).rejects.toThrow(/objects.*cannot be read, and a backup without it/)
  expect(readdirSync(one.base)).toEqual(['data'])
})

test('a backup of which something is missing is refused, and the folder is as it was', async () => {
  await using one = await service('missing')
  const { target } = await one.backup()
  const empty = join(one.base, 'empty')
  mkdirSync(empty)
  for (const name of ['ropeway.db', 'files.jsonl', 'files/jobs/job_1/workspace/kept', 'manifest.json']) {
    const kept = join(one.workspace, 'kept')
    writeFileSync(kept, name)
    const { target } = await one.backup(`without-${name.replaceAll('/', '-')}`)
    rmSync(join(target, name))
    for (const into of [empty, join(one.base, 'new')])
      await expect(one.restore(target, into)).rejects.toMatchObject({ name: 'UserError' })
    expect([readdirSync(empty), existsSync(join(one.base, 'new'))]).toEqual([[], false])
  }
  // What a restore that was killed left is no hindrance.
  mkdirSync(join(empty, '.restoring', 'jobs'), { recursive: true })
  await one.restore(target, empty)
  expect(readdirSync(empty).filter((name) => name.startsWith('.'))).toEqual([])
})

test('nothing is restored into the backup, nor backed up into the service, by whatever path', async () => {
  await using one = await service('inside')
  const { target } = await one.backup()
  const link = join(one.base, 'link')
  symlinkSync(target, link)
  for (const into of [join(target, 'x'), join(link, 'x', 'y'), join(target, 'files', 'x')])
    await expect(one.restore(target, into)).rejects.toMatchObject({ failure: 'usage' })
  symlinkSync(one.folder, join(one.base, 'data-link'))
  await expect(one.backup('data-link/objects/copy')).rejects.toMatchObject({ failure: 'usage' })
  expect([readdirSync(target).includes('x'), existsSync(join(one.folder, 'objects'))]).toEqual([false, false])
  expect(dirname(target)).toBe(one.base)
})
