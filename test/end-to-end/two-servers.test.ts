/** `ropeway up` twice on one PostgreSQL, as processes that are killed: what one has acknowledged, both keep. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import {
  createDeployment,
  deleteDeployment,
  listDeployments,
  replicaLogs,
  showDeployment,
} from '../../src/api/control/deployments.ts'
import {
  createJobEndpoint,
  listJobArtifacts,
  listJobEvents,
  readJobLog,
  viewJob,
} from '../../src/api/control/job-endpoints.ts'
import { createKey } from '../../src/api/control/keys.ts'
import { listClusters } from '../../src/api/control/machine-endpoints.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { Random } from '../../src/base/random.ts'
import { runLabel } from '../../src/control/launchers/local/process-identity.ts'
import { sharedData } from '../shared.ts'
import { PostgresServer, postgresMissing } from '../store/postgres-server.ts'

const main = resolve('src/cli/main.ts')
const home = mkdtempSync(join(tmpdir(), 'ropeway-two-'))
const params = { project: 'default' }
/** More of them take a machine for an hour; a few show that it works at all. */
const rounds = Number(process.env.ROPEWAY_KILL_ROUNDS ?? 2)
const random = new Random(Number(process.env.ROPEWAY_KILL_SEED ?? 1))

interface Server {
  readonly name: string
  readonly child: ChildProcess
  readonly url: string
  readonly gateway: string
  readonly said: () => string
}

let database: PostgresServer
let databaseUrl: string

/** Resolves when it answers; rejects with what it said when it ends instead. */
async function start(name: string, options: readonly string[] = shared()): Promise<Server> {
  const child = spawn(
    process.execPath,
    [...runnerOf(main), main, 'up', '--port', '0', '--database', databaseUrl, ...options],
    { env: { ...process.env, ROPEWAY_HOME: join(home, name) }, stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let text = ''
  const addresses = await new Promise<RegExpMatchArray[]>((done, reject) => {
    child.stdout!.on('data', (piece: Buffer) => (text += piece))
    child.stderr!.on('data', (piece: Buffer) => {
      text += piece
      const found = [...text.matchAll(/answers? at \D*?(http:\/\/127\.0\.0\.1:\d+)/g)]
      if (found.length > 1) done(found)
    })
    child.once('exit', (code) => reject(new Error(`up ended with ${code}: ${text}`)))
  })
  const [url, gateway] = addresses.map((match) => match[1]!)
  return { name, child, url: url!, gateway: `${gateway}/v1`, said: () => text }
}

function shared(): string[] {
  return ['--objects', join(home, 'objects'), '--key-file', join(home, 'secrets.key')]
}

async function kill({ child }: Server): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await ended
}

/** Whatever runs on behalf of a job or a replica. */
function workers(prefix: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`${runLabel}=${prefix}`)
      } catch (error) {
        // It ended while we looked.
        if (['ENOENT', 'ESRCH', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) return false
        throw error
      }
    })
    .map(Number)
}

function killWorkers(prefix: string): void {
  for (const pid of workers(prefix)) process.kill(pid, 'SIGKILL')
}

describe.skipIf(postgresMissing !== undefined || process.platform !== 'linux')('two servers', () => {
  let servers: Server[] = []
  let key: string

  beforeAll(async () => {
    database = await PostgresServer.start()
    databaseUrl = await database.database()
    writeFileSync(join(home, 'secrets.key'), randomBytes(32).toString('hex'), { mode: 0o600 })
    const first = await start('a')
    key = /rwk_\S+/.exec(first.said())![0]
    servers = [first, await start('b')]
  })
  afterAll(async () => {
    for (const server of servers) await kill(server)
    killWorkers('')
    await database?.[Symbol.asyncDispose]()
    rmSync(home, { recursive: true, force: true, maxRetries: 9 })
  })
  const ask = (index: number) => new Client({ url: servers[index]!.url, token: key })

  test('a server with another key, with other objects, or on the folder of another, is refused and told what to do', async () => {
    writeFileSync(join(home, 'other.key'), randomBytes(32).toString('hex'), { mode: 0o600 })
    const objects = ['--objects', join(home, 'objects')]
    await expect(start('c', [...objects, '--key-file', join(home, 'other.key')])).rejects.toThrow(
      /ended with 6.*encrypted with the key.*--key-file/s,
    )
    await expect(start('c', ['--key-file', join(home, 'secrets.key')])).rejects.toThrow(
      /ended with 6.*The objects of this database are not in.*--objects/s,
    )
    await expect(start('a')).rejects.toThrow(/ended with 6.*Another process of Ropeway uses/s)
  })

  test('each has a cluster of its own, and either shows both and when they were last seen', async () => {
    for (const index of [0, 1]) {
      const { items } = await ask(index).call(listClusters, {})
      expect(items.length).toBe(2)
      for (const { last_seen_at } of items) expect(last_seen_at).toBeGreaterThan(0)
    }
  })

  test('jobs run on both, once each, and either server answers for the files and logs of both', async () => {
    const jobs: string[] = []
    // None ends before both clusters have one, however slowly they come.
    const gate = join(home, 'gate')
    const script = `while [ ! -e "$GATE" ]; do sleep 0.05; done; echo "I am $RANK"; echo x > "$ROPEWAY_OUTPUT/made"`
    for (const index of [0, 1, 0, 1]) {
      const file = { run: ['sh', '-c', script], env: { GATE: gate } }
      jobs.push((await ask(index).call(createJobEndpoint, { params, body: { file } })).id)
    }
    const clusterOf = async (job: string) =>
      (await ask(0).call(viewJob, { params: { ...params, job } })).cluster
    await expect
      .poll(
        async () => new Set((await Promise.all(jobs.map(clusterOf))).filter((name) => name !== null)).size,
      )
      .toBe(2)
    writeFileSync(gate, '')
    for (const job of jobs) {
      const at = { params: { ...params, job } }
      await expect.poll(async () => (await ask(0).call(viewJob, at)).state).toBe('success')
      const events = await ask(1).call(listJobEvents, { ...at, query: { limit: 50 } })
      const given = events.items.filter(({ kind }) => kind === 'job.allocating')
      expect(given.length).toBe(1)
      for (const index of [0, 1]) {
        const lines: string[] = []
        for await (const line of ask(index).events(readJobLog, at))
          lines.push((line as { text: string }).text)
        expect(lines).toEqual(['I am 0'])
        const { items } = await ask(index).call(listJobArtifacts, at)
        expect(items.map(({ path }) => path)).toContain('made')
      }
    }
  })

  test(
    'no job is lost or run twice at once while servers and workers are killed',
    async () => {
      const proof = join(home, 'proof')
      mkdirSync(proof)
      // A second one of the same job, at the same time, finds the folder.
      const script = [
        'mkdir "$PROOF/$ROPEWAY_JOB.on" || echo "$ROPEWAY_JOB" >> "$PROOF/twice"',
        'sleep 0.5',
        'rmdir "$PROOF/$ROPEWAY_JOB.on"',
        'echo done >> "$PROOF/$ROPEWAY_JOB.done"',
      ].join('; ')
      const acknowledged: string[] = []
      const submit = async (index: number, name: string) => {
        const file = { name, run: ['sh', '-c', script], env: { PROOF: proof }, job: { retries: 5 } }
        try {
          acknowledged.push((await ask(index).call(createJobEndpoint, { params, body: { file } })).id)
        } catch (error) {
          // The server was killed in between; what was not acknowledged may be there or not.
          expect(error).toMatchObject({ name: 'UserError', failure: 'unreachable' })
        }
      }
      for (let round = 0; round < rounds; round++) {
        const submits = [0, 1, 2, 3].map((n) => submit(n % 2, `round-${round}-${n}`))
        await delay(random.integer(1500))
        const what = (round + random.integer(2)) % 4
        const victims = [[0], [1], [0, 1], []][what]!
        for (const index of victims) await kill(servers[index]!)
        await Promise.all(submits)
        if (what === 3) {
          for (const id of acknowledged) {
            // What died with its worker may run again: its mark is not a second one's.
            if (workers(id).length === 0) continue
            killWorkers(id)
          }
          for (const name of readdirSync(proof))
            if (name.endsWith('.on')) rmSync(join(proof, name), { recursive: true })
        }
        for (const index of victims) servers[index] = await start(servers[index]!.name)
      }
      for (const job of acknowledged) {
        const at = { params: { ...params, job } }
        await expect.poll(async () => (await ask(0).call(viewJob, at)).state).toBe('success')
      }
      expect(existsSync(join(proof, 'twice'))).toBe(false)
      expect(acknowledged.length).toBeGreaterThan(rounds)
    },
    60_000 + rounds * 20_000,
  )

  const model = sharedData('models', 'stories260K', 'hf')
  test.skipIf(model === undefined)(
    'a deployment answers at both gateways, and at the other one while the server of its machine is dead',
    async () => {
      for (const { name } of servers) {
        mkdirSync(join(home, name, 'models'), { recursive: true })
        cpSync(model!, join(home, name, 'models', 'stories'), { recursive: true })
      }
      const version = { model: 'local:stories', engine: { threads: 1, 'cache-tokens': 4096 } }
      await ask(0).call(createDeployment, {
        params,
        body: { name: 'tell', version, scaling: { min: 1, max: 1 } },
      })
      const tell = async (index: number) => {
        const client = new OpenAI({ baseURL: servers[index]!.gateway, apiKey: projectKey, maxRetries: 0 })
        const settings = { model: 'tell', prompt: 'Once upon a time', max_tokens: 20, temperature: 0 }
        return (await client.completions.create(settings)).choices[0]!.text
      }
      const projectKey = (await ask(0).call(createKey, { params, body: { name: 'teller' } })).key
      await expect.poll(() => tell(1).catch(String)).not.toMatch(/Error/)
      const text = await tell(0)
      expect(await tell(1)).toBe(text)
      const at = { params: { ...params, deployment: 'tell' } }
      const [replica] = (await ask(1).call(showDeployment, at)).replicas
      const log = await ask(1).call(replicaLogs, { params: { ...at.params, replica: replica!.id } })
      expect(log.lines.length).toBeGreaterThan(0)
      await kill(servers[0]!)
      await expect.poll(() => tell(1).catch(String)).toBe(text)
      await expect(
        ask(1).call(replicaLogs, { params: { ...at.params, replica: replica!.id } }),
      ).rejects.toMatchObject({
        code: 'unavailable',
      })
      servers[0] = await start('a')
      expect(await tell(0)).toBe(text)
      await ask(1).call(deleteDeployment, at)
      await expect.poll(async () => (await ask(1).call(listDeployments, { params })).items).toEqual([])
    },
  )
})
