/**
 * What is to be done about a deployment, from what was asked, what is known, and what was just seen: a pure function,
 * so that every course of events can be played through.
 */
import type { DeploymentState } from '../../api/control/deployments.ts'
import { startAgainMs } from '../launchers/launcher.ts'
import { advance, type RolloutView } from './rollout.ts'
import type {
  DeploymentEvent,
  DeploymentSpec,
  DeploymentStatus,
  ReplicaEntry,
  VersionFaults,
} from './rows.ts'
import { wantedReplicas } from './scaling.ts'
import type { VersionRecord } from './verdict.ts'

/** What one look saw of a replica. */
export interface Seen {
  /** Its launcher has it (or had it, and it has ended). */
  readonly isKnown: boolean
  /** Nothing of it runs, and nothing of it ever will. */
  readonly isOver: boolean
  /** Its launcher has it, and nothing of it has begun. */
  readonly isStarting?: boolean
  /** How it ended, for people. */
  readonly end?: string
  /** It refused what it was started with: the same again would end the same. */
  readonly isRefusal?: boolean
  readonly url?: string
  /** What it said of itself; absent when it did not answer. */
  readonly answer?: {
    readonly isReady: boolean
    readonly running: number
    readonly waiting: number
    readonly activity: number
  }
}

export interface DeploymentSight {
  readonly id: string
  readonly spec: DeploymentSpec
  readonly status: DeploymentStatus
  readonly isEnding: boolean
  readonly wantedMs: number
  /** By run; absent when its launcher did not answer. */
  readonly seen: ReadonlyMap<string, Seen>
  readonly records: (version: string) => VersionRecord
  readonly nowMs: number
}

export interface Decision {
  readonly status: DeploymentStatus
  readonly state: DeploymentState
  readonly events: readonly DeploymentEvent[]
  /** Runs to be submitted, maybe again. */
  readonly start: readonly ReplicaEntry[]
  /** Runs to be ended, maybe again. */
  readonly stop: readonly string[]
  /** Runs that have ended and may be forgotten. */
  readonly forget: readonly string[]
  /** The candidate's replica that has to answer the gate's questions. */
  readonly ask?: ReplicaEntry
}

/** A replica that was ready for less counts against its version when it ends. */
const soundMs = 60_000
/** Longest that a replica may take to get ready. */
const startMsMax = 1_800_000
/** Looks without an answer after which a ready replica is replaced. */
const silentMax = 10
/** A request that waits says so again before this. */
const wantedForMs = 30_000
const backoffMsMax = 60_000

export function decide(sight: DeploymentSight): Decision {
  return new Deciding(sight).decision()
}

class Deciding {
  readonly #sight: DeploymentSight
  readonly #events: DeploymentEvent[] = []
  readonly #forget: string[] = []
  #status: DeploymentStatus

  constructor(sight: DeploymentSight) {
    this.#sight = sight
    this.#status = sight.status
  }

  decision(): Decision {
    const { isEnding } = this.#sight
    const replicas = this.#status.replicas.flatMap((entry) => this.#looked(entry))
    // Once its launcher has it, whatever kept it back is over.
    if (replicas.every((entry) => entry.phase !== 'starting' || this.#isKnown(entry))) {
      const { refusal: _, ...status } = this.#status
      this.#status = status
    }
    this.#status = { ...this.#status, replicas, lastActiveMs: this.#lastActiveMs(replicas) }
    let ask: ReplicaEntry | undefined
    if (!isEnding) {
      const moved = advance(this.#rolloutView())
      this.#events.push(...moved.events)
      this.#status = { ...this.#status, ...moved.changes }
      ask = moved.ask
    }
    const wanted = isEnding ? new Map<string, number>() : this.#wanted()
    this.#fit(wanted)
    const { message, state } = this.#summary(wanted)
    const all = this.#status.replicas
    return {
      status: { ...this.#status, message },
      state,
      events: this.#events,
      start: all.filter((entry) => entry.phase === 'starting' && this.#isToSubmit(entry)),
      stop: all.filter(({ phase }) => phase === 'draining').map(({ id }) => id),
      forget: this.#forget,
      ...(ask !== undefined && { ask }),
    }
  }

  #isKnown({ id }: ReplicaEntry): boolean {
    return this.#sight.seen.get(id)?.isKnown === true
  }

  #isToSubmit(entry: ReplicaEntry): boolean {
    if (!this.#isKnown(entry)) return true
    const isStarting = this.#sight.seen.get(entry.id)?.isStarting === true
    return isStarting && this.#sight.nowMs - entry.sinceMs > startAgainMs
  }

  /** The replica as it is now; none when it has ended. */
  #looked(entry: ReplicaEntry): ReplicaEntry[] {
    const { nowMs } = this.#sight
    const seen = this.#sight.seen.get(entry.id)
    if (seen === undefined) return [entry]
    if (seen.isOver) {
      this.#ended(entry, seen)
      return []
    }
    const { answer } = seen
    if (entry.phase === 'starting') {
      if (seen.url !== undefined && answer?.isReady === true) {
        this.#say('replica_ready', `Replica ${entry.id} of ${entry.version} is ready.`, { replica: entry.id })
        return [{ ...measured(entry, answer), phase: 'ready', url: seen.url, sinceMs: nowMs, readyMs: nowMs }]
      }
      if (nowMs - entry.sinceMs <= startMsMax) return [entry]
      this.#fault(entry, `Replica ${entry.id} did not get ready in ${startMsMax / 60_000} minutes.`)
      return [{ ...entry, phase: 'draining', sinceMs: nowMs }]
    }
    if (entry.phase === 'draining') return [answer === undefined ? entry : measured(entry, answer)]
    if (answer?.isReady === true) {
      if (this.#isSound(entry)) this.#forgive(entry.version)
      return [measured(entry, answer)]
    }
    const silent = (entry.silent ?? 0) + 1
    if (silent < silentMax) return [{ ...entry, silent }]
    this.#fault(entry, `Replica ${entry.id} runs but has not answered ${silent} times in a row.`)
    return [{ ...entry, phase: 'draining', sinceMs: nowMs }]
  }

  #ended(entry: ReplicaEntry, { end = 'it is gone', isRefusal = false }: Seen): void {
    this.#forget.push(entry.id)
    if (entry.phase === 'draining') {
      this.#say('replica_stopped', `Replica ${entry.id} of ${entry.version} has stopped.`, {
        replica: entry.id,
      })
      return
    }
    const message = `Replica ${entry.id} of ${entry.version} ended by itself: ${end}.`
    if (this.#isSound(entry)) this.#say('replica_lost', message, { replica: entry.id })
    else if (isRefusal && entry.readyMs === undefined) this.#finalFault(entry, end)
    else this.#fault(entry, message)
  }

  #isSound({ readyMs }: ReplicaEntry): boolean {
    return readyMs !== undefined && this.#sight.nowMs - readyMs >= soundMs
  }

  #forgive(version: string): void {
    const { [version]: forgiven, ...faults } = this.#status.faults
    if (forgiven !== undefined && forgiven.final === undefined) this.#status = { ...this.#status, faults }
  }

  /** Whatever is wrong with a version, it is tried again, but ever more rarely. */
  #fault({ id, version }: ReplicaEntry, message: string): void {
    const { count: before = 0, final } = this.#status.faults[version] ?? {}
    const waitMs = Math.min(backoffMsMax, 1000 * 2 ** before)
    const notBeforeMs = this.#sight.nowMs + waitMs
    this.#setFault(version, { count: before + 1, notBeforeMs, ...(final !== undefined && { final }) })
    const next = final === undefined ? ` Another starts in ${waitMs / 1000} s.` : ''
    this.#say('replica_failed', `${message}${next}`, { replica: id, version })
  }

  #finalFault({ id, version }: ReplicaEntry, end: string): void {
    const final = `${version} cannot start as it is asked for: ${end}. It is tried again when the deployment changes.`
    const count = (this.#status.faults[version]?.count ?? 0) + 1
    this.#setFault(version, { count, notBeforeMs: this.#sight.nowMs, final })
    this.#say('replica_failed', final, { replica: id, version })
  }

  #setFault(version: string, fault: VersionFaults): void {
    this.#status = { ...this.#status, faults: { ...this.#status.faults, [version]: fault } }
  }

  #lastActiveMs(replicas: readonly ReplicaEntry[]): number {
    const { nowMs, wantedMs, status } = this.#sight
    const before = new Map(status.replicas.map((entry) => [entry.id, entry.activity]))
    const isActive = replicas.some(
      ({ id, activity, running = 0, waiting = 0, phase }) =>
        phase !== 'draining' && (running + waiting > 0 || activity !== before.get(id)),
    )
    return isActive ? nowMs : Math.max(status.lastActiveMs, wantedMs)
  }

  #rolloutView(): RolloutView {
    const { spec, records, nowMs } = this.#sight
    const ready = (version: string) =>
      this.#status.replicas.find((entry) => entry.version === version && entry.phase === 'ready')
    return { spec, status: this.#status, ready, records, nowMs }
  }

  /** Replicas that each version should have. */
  #wanted(): Map<string, number> {
    const { spec, nowMs } = this.#sight
    const { serving, candidate, previous } = this.#status
    const wanted = new Map<string, number>()
    let count = Math.max(1, spec.scaling.min)
    if (serving !== null) {
      count = this.#wantedServing(serving)
      wanted.set(serving, count)
    }
    if (previous !== null && previous.untilMs > nowMs && previous.version !== serving)
      wanted.set(previous.version, Math.min(1, this.#live(previous.version).length))
    if (candidate !== null) {
      const share = spec.rollout.canary ?? spec.rollout.shadow ?? 1
      wanted.set(candidate.version, Math.max(1, Math.ceil(share * count)))
    }
    return wanted
  }

  #wantedServing(serving: string): number {
    const { spec, nowMs, wantedMs, records } = this.#sight
    const live = this.#live(serving)
    const ready = live.filter(({ phase }) => phase === 'ready')
    const load = {
      live: live.length,
      ready: ready.length,
      requests: ready.reduce((sum, { running = 0, waiting = 0 }) => sum + running + waiting, 0),
      isWanted: ready.length === 0 && nowMs - wantedMs < wantedForMs,
      lastActiveMs: this.#status.lastActiveMs,
      lowSinceMs: this.#status.lowSinceMs,
      firstTokenP90Ms: records(serving).firstTokenP90Ms,
    }
    const { count, lowSinceMs } = wantedReplicas(spec.scaling, load, nowMs)
    const { lowSinceMs: _, ...status } = this.#status
    this.#status = { ...status, ...(lowSinceMs !== undefined && { lowSinceMs }) }
    return count
  }

  #live(version: string): ReplicaEntry[] {
    return this.#status.replicas.filter((entry) => entry.version === version && entry.phase !== 'draining')
  }

  /** Begins and ends replicas until each version has what it should. */
  #fit(wanted: ReadonlyMap<string, number>): void {
    const { id, nowMs } = this.#sight
    const surplus = new Set<string>()
    for (const version of new Set(this.#status.replicas.map((entry) => entry.version))) {
      const live = this.#live(version)
      // Those go first that serve nobody yet, then those with the least to do, then the youngest.
      const order = [...live].reverse().sort((a, b) => weightOf(a) - weightOf(b))
      for (const entry of order.slice(0, Math.max(0, live.length - (wanted.get(version) ?? 0))))
        surplus.add(entry.id)
    }
    const replicas: ReplicaEntry[] = this.#status.replicas.map((entry) =>
      surplus.has(entry.id) ? { ...entry, phase: 'draining', sinceMs: nowMs } : entry,
    )
    let begun = this.#status.begun
    for (const [version, count] of wanted) {
      const { notBeforeMs = 0, final } = this.#status.faults[version] ?? {}
      if (notBeforeMs > nowMs || final !== undefined) continue
      for (let more = count - this.#live(version).length; more > 0; more--) {
        begun++
        replicas.push({ id: `${id}.${begun}`, version, phase: 'starting', sinceMs: nowMs, countedMs: nowMs })
        this.#say('replica_starting', `Replica ${id}.${begun} of ${version} starts.`, {
          replica: `${id}.${begun}`,
        })
      }
    }
    this.#status = { ...this.#status, replicas, begun }
  }

  #summary(wanted: ReadonlyMap<string, number>): { state: DeploymentState; message: string } {
    const { serving, replicas, faults, rejected, refusal } = this.#status
    if (this.#sight.isEnding)
      return { state: 'deleting', message: `${replicas.length} replicas are still to end.` }
    const main = serving ?? this.#sight.spec.target
    if (serving === null && rejected.includes(main))
      return {
        state: 'failing',
        message: `${main} was not taken, and nothing else has served; events say why.`,
      }
    const ready = replicas.filter(({ version, phase }) => version === main && phase === 'ready').length
    const count = wanted.get(main) ?? 0
    const trouble = faults[main]
    if (ready === 0 && trouble?.final !== undefined) return { state: 'failing', message: trouble.final }
    if (ready === 0 && trouble !== undefined && trouble.count > 1)
      return {
        state: 'failing',
        message: `${main} has failed to start ${trouble.count} times; events say why.`,
      }
    if (serving === null)
      return { state: 'starting', message: refusal ?? `${main} gets ready for the first time.` }
    if (count === 0) return { state: 'idle', message: `Nobody asks; the first request starts ${main}.` }
    if (ready === 0) return { state: 'starting', message: refusal ?? `${main} starts.` }
    const message = `${ready} of ${count} replicas of ${main} are ready.`
    return { state: ready < Math.min(count, this.#sight.spec.scaling.min) ? 'degraded' : 'ready', message }
  }

  #say(kind: string, message: string, details: Readonly<Record<string, unknown>>): void {
    this.#events.push({ kind: `deployment.${kind}`, message, details })
  }
}

function measured(
  entry: ReplicaEntry,
  { running, waiting, activity }: NonNullable<Seen['answer']>,
): ReplicaEntry {
  const { silent: _, ...rest } = entry
  return { ...rest, running, waiting, activity }
}

function weightOf({ phase, running = 0, waiting = 0 }: ReplicaEntry): number {
  return phase === 'starting' ? -1 : running + waiting
}
