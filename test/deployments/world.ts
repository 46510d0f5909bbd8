/** A service of nothing but deployments on a machine of arithmetic: what simulations play with. */

import { deploymentInput } from '../../src/api/control/deployments.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import { Deployments } from '../../src/control/deployments/deployments.ts'
import { FleetFeed } from '../../src/control/deployments/fleet-feed.ts'
import { type AskReplica, Gatekeeper } from '../../src/control/deployments/gatekeeper.ts'
import { deploymentMigrations } from '../../src/control/deployments/migration.ts'
import {
  type DeploymentLoopOptions,
  endOrphans,
  reconcileDeployments,
} from '../../src/control/deployments/reconcile.ts'
import { ReplicaRequests } from '../../src/control/deployments/replica-requests.ts'
import type { Sources } from '../../src/control/deployments/sources.ts'
import type { VersionRecord } from '../../src/control/deployments/verdict.ts'
import { ReplicaTable } from '../../src/control/gateway/replicas.ts'
import type { RunRequest } from '../../src/control/launchers/launcher.ts'
import { openStore, type Store } from '../../src/control/store/store.ts'
import type { Watch } from '../../src/control/store/watched-driver.ts'
import { usageMigrations } from '../../src/control/usage/migration.ts'
import {
  type FakeFaults,
  FakeLauncher,
  FakeMachine,
  type FakeProgram,
  noFaults,
} from '../launchers/fake-launcher.ts'

export const startMs = 2_000

/** Every name is a model of the machine's. */
export const anything: Sources = { resolve: async () => undefined, hold: async () => true }

/** Of a replica, what it says when it is asked. */
export interface Played {
  running?: number
  waiting?: number
  activity?: number
  isSilent?: boolean
}

export interface WorldOptions {
  seed?: number
  faults?: FakeFaults
  dieAt?: number
  watch?: Watch
  program?: (request: RunRequest) => Partial<FakeProgram>
  ask?: AskReplica
}

export class World implements AsyncDisposable {
  readonly clock = new ManualClock(Date.UTC(2026, 10, 26))
  readonly machine: FakeMachine
  readonly table = new ReplicaTable()
  readonly played = new Map<string, Played>()
  readonly records = new Map<string, VersionRecord>()
  readonly troubles: unknown[] = []
  store!: Store
  deployments!: Deployments
  loop!: DeploymentLoopOptions
  feed!: FleetFeed
  readonly #options: WorldOptions
  readonly #path: string
  #lives = 0

  private constructor(path: string, options: WorldOptions) {
    this.#path = path
    this.#options = options
    this.machine = new FakeMachine(this.clock, { h100: 8 }, (request) => ({
      startMs,
      durationMs: Number.POSITIVE_INFINITY,
      exitCode: 0,
      onTerm: { afterMs: 500, exitCode: 0 },
      ...options.program?.(request),
    }))
  }

  static async open(path: string, options: WorldOptions = {}): Promise<World> {
    const world = new World(path, options)
    await world.#start(options.dieAt)
    return world
  }

  /** A new server over the same database and machine; it dies at no call. */
  async restart(): Promise<void> {
    await this.#start(undefined)
  }

  async #start(dieAt: number | undefined): Promise<void> {
    await this.store?.close()
    const { seed = 1, faults = noFaults, watch } = this.#options
    const migrations = [...deploymentMigrations, ...usageMigrations]
    this.store = await openStore(this.#path, {
      migrations,
      clock: this.clock,
      ...(watch !== undefined && { watch }),
    })
    const launcher = new AddressedLauncher(this.machine, faults, new Random(seed + this.#lives), dieAt)
    const requests = new ReplicaRequests({
      secret: Buffer.alloc(32, 7),
      ropeway: ['ropeway'],
      folder: '/',
      locate: async (reference) =>
        reference === 'missing'
          ? { ok: false, message: 'There is no such model.' }
          : { ok: true, path: reference },
    })
    const onTrouble = (_: string, error: unknown) => void this.troubles.push(error)
    const ask: AskReplica = this.#options.ask ?? (async () => 'yes')
    this.feed = new FleetFeed(this.store, this.table, requests, 'local')
    this.loop = {
      store: this.store,
      cluster: 'local',
      owner: `loop-${this.#lives++}`,
      launcher,
      requests,
      probe: async (url) => {
        const { isSilent = false, ...said } = this.played.get(url.slice('http://'.length)) ?? {}
        return isSilent ? undefined : { isReady: true, running: 0, waiting: 0, activity: 0, ...said }
      },
      gatekeeper: new Gatekeeper(this.store, ask, onTrouble),
      records: (name, version) =>
        this.records.get(`${name}:${version}`) ?? { requests: 0, failures: 0, firstTokenP90Ms: undefined },
      onTrouble,
    }
    this.deployments = new Deployments(this.store, 'local', anything, () => undefined)
  }

  async create(fields: object = {}): Promise<string> {
    const input = deploymentInput.parse({ name: 'stories', version: { model: 'one' }, ...fields })
    return (await this.deployments.create('main', input)).id
  }

  /** One round of the loop and of the table. */
  async round(): Promise<void> {
    this.machine.settle()
    await reconcileDeployments(this.loop)
    await this.loop.gatekeeper.idle()
    await this.feed.read()
  }

  /** Lets time pass in steps, with a round after each. */
  async pass(ms: number, stepMs = 500): Promise<void> {
    for (let passed = 0; passed < ms; passed += stepMs) {
      this.clock.advance(stepMs)
      await this.round()
    }
  }

  async sweep(): Promise<void> {
    await endOrphans(this.loop)
  }

  /** Runs that live now. */
  living(): string[] {
    return this.machine
      .lives()
      .filter(({ endMs }) => endMs > this.clock.nowMs())
      .map(({ run }) => run)
      .sort()
  }

  /** Replicas in the table that may be asked, by version. */
  ready(version: string): string[] {
    const found = this.table.current.deployments[0]?.versions.find(({ id }) => id === version)
    return (found?.replicas ?? []).filter(({ state }) => state === 'ready').map(({ id }) => id)
  }

  shares(): Record<string, number> {
    const versions = this.table.current.deployments[0]?.versions ?? []
    return Object.fromEntries(versions.filter(({ share }) => share > 0).map(({ id, share }) => [id, share]))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.store.close()
  }
}

/** Members that run have an address: their run's id. */
class AddressedLauncher extends FakeLauncher {
  override async observe(id: string) {
    const observation = await super.observe(id)
    const members = observation.members.map((member) =>
      member.state === 'running' ? { ...member, address: `http://${id}` } : member,
    )
    return { ...observation, members }
  }
}
