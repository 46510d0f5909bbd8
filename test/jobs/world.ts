/**
 * The control plane's jobs on a real database, with servers that are killed, a machine that is arithmetic, and a
 * launcher between them that loses, delays and repeats. One seed is one history.
 */
import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import type { decide } from '../../src/control/jobs/decide.ts'
import { Jobs } from '../../src/control/jobs/jobs.ts'
import { reconcileDue, type ServedCluster } from '../../src/control/jobs/reconcile.ts'
import type { News } from '../../src/control/jobs/reports.ts'
import { clusterNouns, type JobRow, type JobTables } from '../../src/control/jobs/rows.ts'
import { schedule } from '../../src/control/jobs/scheduler.ts'
import { activeStates, isFinal, type JobState, mayFollow } from '../../src/control/jobs/states.ts'
import type { Prepared, Workplace } from '../../src/control/jobs/workplace.ts'
import type { EventRow } from '../../src/control/store/events.ts'
import type { Store } from '../../src/control/store/store.ts'
import type { Watch } from '../../src/control/store/watched-driver.ts'
import type { DevicesRow } from '../../src/control/usage/tables.ts'
import {
  type FakeFaults,
  FakeLauncher,
  FakeMachine,
  type Life,
  noFaults,
  ServerDied,
} from '../launchers/fake-launcher.ts'
import { failedForGood, numberIn, numberOf, programOf, Saves, stepOf, totalOf } from './programs.ts'

export const slots = { h100: 3 }
const checkpointSteps = 10

/** What a job's program does, in its file's `env`. */
export interface Work {
  total: number
  /** Attempts that end with code 1 at this many steps of their own; later ones work. */
  failing: number
  /** Attempts that stop reporting. */
  hanging: number
  stubborn: boolean
  /** The attempt that says that no other could succeed, and ends; 0 for none. */
  final: number
  /** It ends when it has saved on demand. */
  endsOnSave: boolean
}

/** What the database's calls meet. */
export class DatabaseFaults {
  refuse = 0
  random: Random | undefined
  /** The call at which the running server dies, counted from now; 0 for never. */
  dieIn = 0
  dead = false
  calls = 0
  /** Off while the history is judged. */
  on = false

  readonly watch: Watch = async (sql, call) => {
    // What a dead server had begun is undone by the database.
    if (sql === 'rollback' || !this.on) return await call()
    if (this.dead) throw new ServerDied()
    this.calls++
    if (this.dieIn > 0 && --this.dieIn === 0) {
      this.dead = true
      if (this.calls % 2 === 0) await call()
      throw new ServerDied()
    }
    const chance = this.random?.uniform() ?? 1
    if (chance < this.refuse / 2) throw new Error('the database does not answer')
    const result = await call()
    if (chance < this.refuse) throw new Error('the answer of the database was lost')
    return result
  }
}

export class World {
  readonly clock = new ManualClock(1_700_000_000_000)
  readonly machine: FakeMachine
  readonly store: Store
  readonly database: DatabaseFaults
  readonly random: Random
  readonly jobs: Jobs
  /** Between servers and programs, and as lasting as their folders. */
  readonly saves: Saves
  faults: FakeFaults = noFaults
  servers: { owner: string; launcher: FakeLauncher }[] = []
  troubles = 0
  /** Another rule than the real one. */
  planted: typeof decide | undefined
  readonly #generation = { count: 0 }

  constructor(store: Store, clock: ManualClock, database: DatabaseFaults, seed: number) {
    this.clock = clock
    this.store = store
    this.database = database
    this.random = new Random(seed)
    this.machine = new FakeMachine(clock, slots, programOf)
    this.saves = new Saves(this.machine)
    this.jobs = new Jobs({ store, wake: () => undefined })
    this.servers = [this.#server(), this.#server()]
  }

  async begin(): Promise<void> {
    const db = this.store.db<JobTables & { events: EventRow; leases: object; usage_devices: object }>()
    for (const table of [
      'jobs',
      'job_attempts',
      'job_metrics',
      'clusters',
      'quotas',
      'events',
      'leases',
      'usage_devices',
    ] as const)
      await db.deleteFrom(table).execute()
    const spec = { kind: 'local' as const, slots, open: true }
    await clusterNouns(this.store).insert({ project_id: '', name: 'a', spec, status: {} })
  }

  #server(dieAt?: number) {
    const random = this.faults === noFaults ? undefined : this.random
    return {
      owner: `server-${this.#generation.count++}`,
      launcher: new FakeLauncher(this.machine, this.faults, random, dieAt),
    }
  }

  /** The first server dies at the n-th call of its launcher. */
  armLauncher(n: number): void {
    this.servers[0] = this.#server(n)
  }

  /** Every server is a new one from now on, with these faults; the old ones' leases stay until they end. */
  restart(faults: FakeFaults): void {
    this.faults = faults
    this.servers = this.servers.map(() => this.#server())
  }

  async submit(project: string, priority: number, devices: number, work: Work): Promise<JobRow> {
    const { total, failing, hanging, stubborn, final, endsOnSave } = work
    const env = {
      ...{ TOTAL: total, FAILING: failing, HANGING: hanging, STUBBORN: stubborn },
      ...{ FINAL: final, ENDS_ON_SAVE: endsOnSave },
    }
    const job = { device: 'h100', priority, retries: 3, heartbeat_timeout: '60s' }
    return await this.jobs.create(project, {
      file: { run: ['work'], env, processes: devices, grace: '20s', job },
    })
  }

  /** One round of one server; a server that dies in it is replaced. */
  async round(index: number): Promise<void> {
    const server = this.servers[index]!
    const workplace = new FakeWorkplace(this.machine, this.saves)
    const clusters = new Map<string, ServedCluster>([['a', { launcher: server.launcher, workplace }]])
    const { store } = this
    this.database.on = true
    try {
      await schedule(store, server.owner)
      await reconcileDue({
        store,
        owner: server.owner,
        clusters,
        onTrouble: () => this.troubles++,
        ...(this.planted && { decide: this.planted }),
      })
    } catch {
      // A pass that failed is a pass that did not happen: the next one is another.
      this.troubles++
    }
    this.database.on = false
    if (server.launcher.dead || this.database.dead) this.servers[index] = this.#server()
    this.database.dead = false
  }

  /** Jobs whose devices are theirs by the database. */
  async devicesGiven(): Promise<number> {
    const rows = await this.store.db<JobTables>().selectFrom('jobs').select(['devices', 'state']).execute()
    const active: readonly string[] = activeStates
    return rows.filter(({ state }) => active.includes(state)).reduce((sum, { devices }) => sum + devices, 0)
  }

  async rows(): Promise<JobRow[]> {
    return (await this.store.db<JobTables>().selectFrom('jobs').selectAll().execute()) as JobRow[]
  }

  /** Everything that must be true of any history; returns what is not. */
  async violations(created: readonly string[]): Promise<string[]> {
    const rows = await this.rows()
    const found: string[] = []
    const lives = this.machine.lives()
    for (const id of created) {
      const row = rows.find((one) => one.id === id)
      if (row === undefined) found.push(`${id} vanished`)
      else
        found.push(
          ...(await this.#violationsOf(
            row,
            lives.filter(({ request }) => request.environment.JOB === id),
          )),
        )
    }
    for (const { run, endMs } of lives)
      if (endMs === Number.POSITIVE_INFINITY) found.push(`${run} is left running`)
    const open = await this.store
      .db<JobTables>()
      .selectFrom('job_attempts')
      .selectAll()
      .where('ended_at', 'is', null)
      .execute()
    for (const { run_id } of open) found.push(`attempt ${run_id} has no end`)
    found.push(...(await this.#deviceTimeViolations(created)))
    return found
  }

  /** What is in the usage is what attempts had, to the millisecond. */
  async #deviceTimeViolations(created: readonly string[]): Promise<string[]> {
    const db = this.store.db<JobTables & { usage_devices: DevicesRow }>()
    const attempts = await db.selectFrom('job_attempts').selectAll().execute()
    const counted = await db.selectFrom('usage_devices').selectAll().execute()
    return created.flatMap((id) => {
      const had = attempts
        .filter(({ job_id }) => job_id === id)
        .reduce((sum, { started_at, ended_at, devices }) => sum + (ended_at! - started_at) * devices, 0)
      const used = counted
        .filter(({ subject_id }) => subject_id === id)
        .reduce((sum, { device_ms }) => sum + device_ms, 0)
      return had === used ? [] : [`${id} had its devices for ${had} ms, and ${used} are counted`]
    })
  }

  async #violationsOf(row: JobRow, lives: readonly Life[]): Promise<string[]> {
    const found: string[] = []
    if (!isFinal(row.state)) found.push(`${row.id} never ended: ${row.state}, ${row.status.message}`)
    for (const a of lives)
      for (const b of lives)
        if (
          a.run < b.run &&
          a.startMs !== undefined &&
          b.startMs !== undefined &&
          a.startMs < b.endMs &&
          b.startMs < a.endMs
        )
          found.push(`${a.run} and ${b.run} ran at the same time`)
    const startUnixMs = this.clock.unixMs() - this.clock.nowMs()
    for (const { run, endMs } of lives)
      if (startUnixMs + endMs > row.since) found.push(`${run} still ran when ${row.id} became ${row.state}`)
    const reached = Math.max(0, ...lives.map((life) => stepOf(life, this.clock.nowMs())))
    const total = totalOf(row)
    if (row.state === 'success' && reached < total)
      found.push(`${row.id} succeeded after ${reached} of ${total} steps`)
    // Of several ranks, those that end later may have been ended.
    if (
      row.spec.processes === 1 &&
      row.state === 'stopped' &&
      reached >= total &&
      row.status.stepsDone >= total
    )
      found.push(`${row.id} was done and is called stopped`)
    const events = await this.store
      .db<{ events: EventRow }>()
      .selectFrom('events')
      .selectAll()
      .where('subject_id', '=', row.id)
      .orderBy('id')
      .execute()
    let state: JobState = 'waiting'
    for (const { kind, details } of events) {
      const { from } = details as { from?: JobState }
      if (from === undefined) continue
      const to = kind.slice('job.'.length) as JobState
      if (from !== state || !mayFollow(from, to))
        found.push(`${row.id} went from ${state} to ${to}, saying ${from}`)
      state = to
    }
    if (state !== row.state) found.push(`${row.id} is ${row.state}, its events say ${state}`)
    if (row.status.saveAskedMs !== undefined) found.push(`${row.id} is over and still asked to save`)
    found.push(...this.#unwanted(row, lives, events))
    return found
  }

  /** Attempts that nobody wanted: after somebody asked to stop, and after one that said it is of no use. */
  #unwanted(row: JobRow, lives: readonly Life[], events: readonly EventRow[]): string[] {
    const found: string[] = []
    let unwanted: string | undefined
    const final = events.flatMap(({ kind, details }) => {
      const { reason, attempt } = details as { reason?: string; attempt?: number }
      return kind === 'job.failed' && reason === 'cannot_succeed' ? [attempt] : []
    })
    for (const attempt of final)
      if (attempt !== numberIn(row, 'FINAL')) found.push(`${row.id} failed for good in attempt ${attempt}`)
    // An attempt is submitted once its job is allocating, in the order of the events.
    for (const { kind, details } of events) {
      const { from, reason, attempt } = details as { from?: JobState; reason?: string; attempt?: number }
      if (kind === 'job.stop_requested') unwanted = 'was asked to stop'
      else if (from === 'stopped' || from === 'failed') unwanted = undefined
      else if (
        kind === 'job.waiting' &&
        (reason === 'exit_code' || reason === 'rank_failed') &&
        attempt === numberIn(row, 'FINAL')
      ) {
        const life = lives.find(
          ({ request, index }) => index === 0 && numberOf(request, 'ATTEMPT') === attempt,
        )
        if (life !== undefined && failedForGood(life)) unwanted = 'said that it cannot succeed'
      } else if (kind === 'job.allocating' && unwanted !== undefined)
        found.push(`${row.id} ${unwanted}, and got devices again`)
    }
    return found
  }
}

class FakeWorkplace implements Workplace {
  readonly #machine: FakeMachine
  readonly #saves: Saves

  constructor(machine: FakeMachine, saves: Saves) {
    this.#machine = machine
    this.#saves = saves
  }

  #lives(row: JobRow): Life[] {
    return this.#machine.lives().filter(({ request }) => request.environment.JOB === row.id)
  }

  #checkpoint(row: JobRow): number {
    const steps = this.#lives(row).map((life) => stepOf(life, this.#machine.clock.nowMs()))
    const regular = Math.floor(Math.max(0, ...steps) / checkpointSteps) * checkpointSteps
    return Math.max(regular, ...this.#saves.of(row.id))
  }

  askToSave(job: string, isAsked: boolean): void {
    this.#saves.ask(job, isAsked)
  }

  isAskedToSave(job: string): boolean {
    return this.#saves.isAsked(job)
  }

  remove(): void {}

  async prepare(row: JobRow): Promise<Prepared> {
    this.#saves.ask(row.id, false)
    const environment = {
      ...(row.spec.file.env as Record<string, string>),
      JOB: row.id,
      ATTEMPT: String(row.attempt),
      START: String(this.#checkpoint(row)),
    }
    return {
      ok: true,
      request: {
        id: row.run_id!,
        command: ['work'],
        environment: Object.fromEntries(
          Object.entries(environment).map(([name, value]) => [name, String(value)]),
        ),
        folder: '/',
        members: row.spec.processes,
        devices: { type: 'h100', perMember: 1 },
      },
    }
  }

  read(row: JobRow, nowMs: number): News {
    const life = this.#lives(row).find(({ run, index }) => run === row.run_id && index === 0)
    const done = life === undefined ? 0 : stepOf(life, this.#machine.clock.nowMs())
    const news: News = { status: row.status, points: [], notes: [], checkpoints: [], hasAny: false }
    if (life?.startMs === undefined) return news
    const saved = this.#saves.of(row.id, life.run)
    // In place of offsets: steps, saves, and whether the failure was read.
    const read = { 0: done, 1: saved.length, 2: Number(failedForGood(life)) }
    if (Object.entries(read).every(([name, value]) => value <= (row.status.read[name] ?? -1))) return news
    news.hasAny = true
    news.points.push({ name: 'loss', step: done, at: nowMs, value: 1 / (done + 1) })
    news.checkpoints.push(...saved.slice(row.status.read[1] ?? 0))
    news.status = {
      ...row.status,
      read,
      ...(read[2] === 1 && { failure: { text: 'No attempt can succeed.', final: true } }),
      lastReportMs: nowMs,
      stepsDone: done,
      totalSteps: totalOf(row),
      checkpointStep: this.#checkpoint(row),
      metrics: { loss: 1 / (done + 1) },
    }
    return news
  }
}
