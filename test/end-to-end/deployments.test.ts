import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import OpenAI from 'openai'
import { pino } from 'pino'
import { describe, expect, test } from 'vitest'
import { deploymentInput, deploymentUpdate } from '../../src/api/control/deployments.ts'
import { systemClock } from '../../src/base/clock.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { deploymentMigrations } from '../../src/control/deployments/migration.ts'
import { RunningDeployments } from '../../src/control/deployments/running.ts'
import { sha256 } from '../../src/control/gateway/keys.ts'
import { Ledger } from '../../src/control/gateway/ledger.ts'
import { ReplicaTable } from '../../src/control/gateway/replicas.ts'
import { Gateway } from '../../src/control/gateway/server.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { runLabel } from '../../src/control/launchers/local/process-identity.ts'
import { eventsOf } from '../../src/control/store/events.ts'
import { openStore } from '../../src/control/store/store.ts'
import { usageMigrations } from '../../src/control/usage/migration.ts'
import { sharedData } from '../shared.ts'

const model = sharedData('models', 'stories260K', 'hf')
const main = resolve('src/cli/main.ts')

/** The service of one project as far as deployments go, with real processes; all of it ends with the scope. */
async function service() {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-deployed-'))
  const runs = join(folder, 'runs')
  mkdirSync(join(folder, 'work'))
  const wrapper = new URL('../../src/cli/run-wrapper.ts', import.meta.url)
  const launcher = new LocalLauncher({ root: runs, devices: {}, wrapper })
  const store = await openStore(join(folder, 'ropeway.db'), {
    migrations: [...deploymentMigrations, ...usageMigrations],
  })
  const table = new ReplicaTable()
  const warnings: string[] = []
  const running = new RunningDeployments({
    ...{
      store,
      launcher,
      cluster: 'local',
      table,
      secret: Buffer.alloc(32, 1),
      folder: join(folder, 'work'),
    },
    log: pino({}, { write: (line: string) => void warnings.push(line) }),
    ropeway: [process.execPath, ...runnerOf(main), main],
    sources: { resolve: async () => undefined, hold: async () => true },
    locate: async (reference) => ({ ok: true, path: reference }),
  })
  const ledger = new Ledger(join(folder, 'usage'), systemClock)
  const caller = { key: 'alice', project: 'main', limits: {} }
  const gateway = new Gateway({
    ...{ table, ledger, wake: (name: string) => running.wanted(name) },
    verify: (digest) => (digest === sha256('secret') ? caller : undefined),
  })
  const url = await gateway.listen(0)
  await running.start(gateway.metrics)
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'secret', maxRetries: 0 })
  return {
    ...{ running, store, table, ledger, client, warnings, launcher, url },
    [Symbol.asyncDispose]: async () => {
      await gateway.close(0)
      await running.close()
      for (const id of await launcher.listOwned()) await launcher.cancel(id, 0)
      const isOver = async () => {
        const gone = await Promise.all((await launcher.listOwned()).map((id) => launcher.remove(id)))
        return gone.every(Boolean)
      }
      await expect.poll(isOver).toBe(true)
      ledger.close()
      await store.close()
      rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}

/** Process ids of `ropeway serve` of a run. */
function serversOf(run: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
        return (
          environment.includes(`${runLabel}=${run}`) && command.includes(main) && command.includes('serve')
        )
      } catch (error) {
        // It ended while we looked.
        if (['ENOENT', 'ESRCH', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) return false
        throw error
      }
    })
    .map(Number)
}

const settings = { max_tokens: 200, temperature: 0, prompt: 'Once upon a time' }

describe.skipIf(model === undefined || process.platform !== 'linux')('deployments of real replicas', () => {
  test('a model is deployed, asked with the OpenAI client, survives kill -9 of a replica, and is rolled back', async () => {
    await using up = await service()
    const { running, client, table } = up
    const engine = { threads: 1, 'cache-tokens': 4096 }
    const { id } = await running.deployments.create(
      'main',
      deploymentInput.parse({
        name: 'stories',
        scaling: { min: 2, max: 2 },
        version: { model: model!, engine },
      }),
    )
    // The first request comes before any replica is there, and waits.
    const first = await client.completions.create({ model: 'stories', ...settings })
    const text = first.choices[0]!.text
    expect(text.length).toBeGreaterThan(100)
    const ready = (version: string) =>
      table.current.deployments[0]!.versions.find((one) => one.id === version)!.replicas.filter(
        ({ state }) => state === 'ready',
      )
    await expect.poll(() => ready('v1').length).toBe(2)

    // Streams go on when the process that computes them is killed.
    const streams = await Promise.all(
      Array.from({ length: 4 }, () =>
        client.completions.create({ model: 'stories', ...settings, stream: true }),
      ),
    )
    let isKilled = false
    const texts = await Promise.all(
      streams.map(async (stream) => {
        let got = ''
        for await (const chunk of stream) {
          got += chunk.choices[0]?.text ?? ''
          if (isKilled || got.length < 20) continue
          isKilled = true
          for (const pid of serversOf(ready('v1')[0]!.id)) process.kill(pid, 'SIGKILL')
        }
        return got
      }),
    )
    expect(texts).toEqual([text, text, text, text])
    await expect
      .poll(() => running.deployments.nouns.get(id).then((row) => row!.status.begun))
      .toBeGreaterThan(2)
    await expect.poll(() => ready('v1').length).toBe(2)

    // A new version takes over when it is ready; for the way back some of the earlier one are kept.
    const served = () =>
      client.completions.create({ model: 'stories', ...settings, max_tokens: 1 }).withResponse()
    const version = async () => (await served()).response.headers.get('x-ropeway-version')
    await running.deployments.update(
      id,
      deploymentUpdate.parse({ version: { model: model!, engine: { ...engine, context: 256 } } }),
    )
    await expect.poll(version).toBe('v2')
    expect(ready('v1').length).toBeGreaterThan(0)
    await running.deployments.rollback(id)
    await expect.poll(version, { interval: 10 }).toBe('v1')

    const { rows } = await eventsOf(up.store, id, { limit: 100 })
    expect(rows.find(({ message }) => message.includes('ended by itself'))?.message).toContain('SIGKILL')
    const used = up.ledger.sums.rows({ project: 'main', key: 'alice', model: 'stories' })
    expect(used[0]!.output).toBeGreaterThanOrEqual(5 * 200)
    await running.deployments.delete(id)
    await expect.poll(() => up.launcher.listOwned()).toEqual([])
  })

  test('the event of a replica that cannot start says what it printed, for its log goes with it', async () => {
    await using up = await service()
    const version = { model: model!, engine: { running: 1000 } }
    const { id } = await up.running.deployments.create(
      'main',
      deploymentInput.parse({ name: 'stories', version }),
    )
    const failures = async () => {
      const { rows } = await eventsOf(up.store, id, { limit: 100 })
      return rows.filter(({ kind }) => kind === 'deployment.replica_failed').map(({ message }) => message)
    }
    await expect
      .poll(failures)
      .toContainEqual(
        expect.stringContaining(
          'exit code 2 (--running 1000 does not fit into --step-tokens 512, the default: ',
        ),
      )
    await up.running.deployments.delete(id)
    await expect.poll(() => up.launcher.listOwned()).toEqual([])
  })
})
