/** Jobs of several nodes, and jobs on images, on real processes with the loop in this process. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { createLogger } from '../../src/base/log.ts'
import { wrapperEntry } from '../../src/cli/wrapper-entry.ts'
import { Sealer } from '../../src/control/credentials/sealer.ts'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { LocalWorkplace } from '../../src/control/jobs/launch.ts'
import { readJobLog } from '../../src/control/jobs/logs.ts'
import { startJobLoop } from '../../src/control/jobs/loop.ts'
import { ensureCluster } from '../../src/control/jobs/machines.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import type { JobRow } from '../../src/control/jobs/rows.ts'
import { type Engine, findEngine } from '../../src/control/launchers/local/containers.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { openStore } from '../../src/control/store/store.ts'
import { image, Podman } from '../launchers/podman.ts'

const waitMsMax = 60_000
const podman = new Podman()
afterAll(() => podman[Symbol.dispose]())

async function open(engine: () => Promise<Engine | undefined> = () => findEngine(process.env)) {
  const home = mkdtempSync(join(tmpdir(), 'ropeway-nodes-'))
  const store = await openStore(join(home, 'ropeway.db'), { migrations: jobMigrations })
  await ensureCluster(store, 'local', { kind: 'local', slots: { cpu: 4 }, open: true })
  const launcher = new LocalLauncher({
    root: join(home, 'runs'),
    devices: { cpu: 4 },
    wrapper: wrapperEntry(),
    engine,
  })
  const asked: string[] = []
  const workplace = new LocalWorkplace({
    folders: new JobFolders(join(home, 'jobs')),
    trainer: [],
    registry: async (project, name) => {
      asked.push(`${project}/${name}`)
      return { registry: 'registry.example.org', username: 'ann', password: 'of ann' }
    },
  })
  const clusters = new Map([['local', { launcher, workplace }]])
  const loop = startJobLoop({
    ...{ store, clusters, owner: store.ids.next('loop'), log: createLogger('test', 'error') },
    sealer: new Sealer(new Uint8Array(32)),
  })
  const jobs = new Jobs({ store, wake: () => loop.wake() })
  const until = async (id: string, condition: (row: JobRow) => boolean): Promise<JobRow> => {
    const endMs = performance.now() + waitMsMax
    for (;;) {
      const row = await jobs.find('p', id)
      if (condition(row)) return row
      if (performance.now() > endMs) throw new Error(`it is still ${row.state}: ${row.status.message}`)
      await delay(50)
    }
  }
  const log = async (row: JobRow, attempt: number, rank?: number) => {
    const filter = { attempt, ...(rank !== undefined && { rank }) }
    const { lines } = await readJobLog(store, clusters, row, filter, undefined)
    return lines.map((line) => `${line.rank} ${line.text}`)
  }
  return {
    ...{ home, jobs, until, log, asked, launcher },
    async [Symbol.asyncDispose]() {
      await loop.stop()
      await store.close()
      rmSync(home, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}

const isOver = ({ state }: JobRow) => state === 'success' || state === 'failed'

test('two nodes of two processes are four ranks, each told its place, with a log of its own', async () => {
  await using world = await open()
  const script = 'echo $RANK $LOCAL_RANK $NODE_RANK $LOCAL_WORLD_SIZE $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT'
  const file = { name: 'four', run: ['sh', '-c', script], nodes: 2, processes: 2 }
  const { id, devices } = await world.jobs.create('p', { file })
  expect(devices).toBe(4)
  const done = await world.until(id, isOver)
  expect(done.state).toBe('success')
  const lines = (await world.log(done, 1)).sort()
  const port = lines[0]!.split(':')[1]!
  expect(lines).toEqual([
    `0 0 0 0 2 4 127.0.0.1:${port}`,
    `1 1 1 0 2 4 127.0.0.1:${port}`,
    `2 2 0 1 2 4 127.0.0.1:${port}`,
    `3 3 1 1 2 4 127.0.0.1:${port}`,
  ])
  expect(await world.log(done, 1, 2)).toEqual([lines[2]])
})

test('when a node dies, all are ended, and the job begins again as a whole', async () => {
  await using world = await open()
  // In the first attempt rank 1 dies once the others are up; they would wait for ever.
  const script = `
    echo attempt $ROPEWAY_ATTEMPT; touch "$ROPEWAY_OUTPUT/up-$ROPEWAY_ATTEMPT-$RANK"
    [ $ROPEWAY_ATTEMPT = 2 ] && exit 0
    [ $RANK = 1 ] || { while :; do sleep 0.1; done; }
    while [ ! -e "$ROPEWAY_OUTPUT/up-1-0" ] || [ ! -e "$ROPEWAY_OUTPUT/up-1-2" ]; do sleep 0.05; done
    kill -9 $$`
  const file = { name: 'three', run: ['sh', '-c', script], nodes: 3, grace: '1s' }
  const { id } = await world.jobs.create('p', { file })
  const waiting = await world.until(id, ({ state, attempt }) => attempt === 1 && state === 'waiting')
  expect(waiting.status.message).toMatch(/Rank 1 was ended by SIGKILL.*retry 1 of 3/)
  const seen = await world.launcher.observe(`${id}-1`)
  expect(seen.members.map(({ state }) => state)).toEqual(['ended', 'ended', 'ended'])
  // Its back-off is not waited for.
  await world.jobs.stop('p', id)
  await world.jobs.resume('p', id)
  const done = await world.until(id, isOver)
  expect([done.state, done.attempt]).toEqual(['success', 2])
  expect((await world.log(done, 2)).sort()).toEqual(['0 attempt 2', '1 attempt 2', '2 attempt 2'])
})

test('a job with more ranks than its cluster has devices starts none of them', async () => {
  await using world = await open()
  const { id } = await world.jobs.create('p', { file: { run: ['true'], nodes: 5 } })
  const row = await world.until(id, ({ status }) => status.message !== 'It waits for its turn.')
  expect(row.status.message).toMatch(/5/)
  expect([row.state, row.attempt]).toEqual(['waiting', 0])
  await expect(
    world.jobs.create('p', { file: { run: ['true'], nodes: 256, processes: 256 } }),
  ).rejects.toThrow(/nodes.*more than 1024/)
})

test('a job with an image waits while nothing runs containers, and says what to install', async () => {
  let engine: Engine | undefined
  await using world = await open(async () => engine)
  const file = { name: 'boxed', run: ['true'], image, network: 'none', registry: 'ours' }
  const { id } = await world.jobs.create('p', { file })
  const row = await world.until(id, ({ state, attempt }) => state === 'waiting' && attempt === 1)
  expect([row.status.reason, row.status.message]).toEqual([
    'no_engine',
    expect.stringContaining('install podman'),
  ])
  expect(world.asked).toEqual(['p/ours'])
  await expect(world.jobs.create('p', { file: { run: ['true'], memory: '1g' } })).rejects.toThrow(
    /memory.*for a job with an image/,
  )
})

test.skipIf(podman.missing !== undefined)(
  'a job with an image finds its workspace and output, and reports',
  async () => {
    await using world = await open()
    const script = `echo '{"event":"start","t":1,"total_steps":3,"steps_done":3,"rank":0}' >> "$ROPEWAY_EVENTS"
    echo $RANK of $WORLD_SIZE as $(id -u); echo weights > "$ROPEWAY_OUTPUT/weights-$RANK"`
    const file = { name: 'boxed', run: ['/bin/sh', '-c', script], image, network: 'none', nodes: 2 }
    const { id } = await world.jobs.create('p', { file })
    const done = await world.until(id, isOver)
    const user = process.getuid?.() === 0 ? 65534 : process.getuid?.()
    expect([done.state, await world.log(done, 1)]).toEqual([
      'success',
      expect.arrayContaining([`0 0 of 2 as ${user}`, `1 1 of 2 as ${user}`]),
    ])
    expect(done.status.totalSteps).toBe(3)
    expect(readFileSync(join(world.home, 'jobs', id, 'output', 'weights-1'), 'utf8')).toBe('weights\n')
  },
)
