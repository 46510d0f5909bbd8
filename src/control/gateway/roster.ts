import type { Clock } from '../../base/clock.ts'
import { Random } from '../../base/random.ts'
import { PrefixAffinity } from './affinity.ts'
import { type Candidate, choose } from './choice.ts'
import type { Fleet, Replica, Version } from './replicas.ts'

export interface RosterLimits {
  /** Failures in a row after which a replica gets no requests for a while. */
  failuresMax: number
  /** The first such while; it doubles with every failed attempt after it. */
  ejectMs: number
  ejectMsMax: number
  /** Gauges older than this say nothing any more. */
  gaugesMsMax: number
}

export const rosterLimits: RosterLimits = {
  failuresMax: 3,
  ejectMs: 1000,
  ejectMsMax: 60_000,
  gaugesMsMax: 10_000,
}

/** What a replica says of itself. */
export interface ReplicaGauges {
  /** Requests in its batch and those that wait for a place there, from whomever. */
  readonly running: number
  readonly waiting: number
  /** Of its key-value cache; `cached` ones may be given to others, `held` ones are in use. */
  readonly cacheBlocks: { readonly free: number; readonly cached: number; readonly held: number }
}

/** What is known of one replica from talking to it. */
interface Standing {
  inFlight: number
  failures: number
  ejections: number
  ejectedUntilMs: number
  /** What the replica said of itself, and how many of our own requests were in flight then. */
  gauges: { said: ReplicaGauges; own: number; atMs: number } | undefined
}

/** A prompt as far as choosing a replica goes. */
export interface PromptShape {
  readonly chain: readonly number[]
  readonly characters: number
}

/** Chooses replicas and remembers how they behave. It survives changes of the fleet. */
export class Roster {
  readonly #clock: Clock
  readonly #limits: RosterLimits
  readonly #random: Random
  readonly #affinity = new PrefixAffinity()
  readonly #standings = new Map<string, Standing>()

  constructor(clock: Clock, seed: number, limits: Partial<RosterLimits> = {}) {
    this.#clock = clock
    this.#limits = { ...rosterLimits, ...limits }
    this.#random = new Random(seed)
  }

  /** A ready replica of the version; without `tried` ones while there are others, undefined when there is none. */
  choose(version: Version, prompt: PromptShape, tried: ReadonlySet<string>): Replica | undefined {
    const ready = version.replicas.filter(({ state, id }) => state === 'ready' && !tried.has(id))
    const sound = ready.filter(({ id }) => this.#standing(id).ejectedUntilMs <= this.#clock.nowMs())
    // With every replica in disgrace, the one that may come back first is better than nothing.
    const usable = sound.length > 0 ? sound : this.#nextBack(ready)
    const known = this.#affinity.known(prompt.chain)
    const candidates = usable.map(
      ({ id }): Candidate => ({ id, load: this.load(id), knownCharacters: known.get(id) ?? 0 }),
    )
    const chosen = choose(candidates, prompt.characters, this.#random)
    return usable.find(({ id }) => id === chosen?.id)
  }

  /** A request goes to a replica; the returned call says that it is over. */
  begin(replica: Replica, prompt: PromptShape): () => void {
    const standing = this.#standing(replica.id)
    standing.inFlight++
    this.#affinity.remember(prompt.chain, replica.id)
    let over = false
    return () => {
      if (!over) standing.inFlight--
      over = true
    }
  }

  succeeded(id: string): void {
    const standing = this.#standing(id)
    standing.failures = 0
    standing.ejections = 0
    standing.ejectedUntilMs = 0
  }

  /** `unreachable`: nothing listens there, so one failure says it all. Returns whether it is ejected now. */
  failed(id: string, unreachable: boolean): boolean {
    const { failuresMax, ejectMs, ejectMsMax } = this.#limits
    const standing = this.#standing(id)
    standing.failures++
    if (!unreachable && standing.failures < failuresMax) return false
    // Many requests that fail together are one failure: what was ejected already stays so, no longer.
    if (standing.ejectedUntilMs > this.#clock.nowMs()) return false
    const whileMs = Math.min(ejectMsMax, ejectMs * 2 ** standing.ejections)
    standing.ejections++
    standing.ejectedUntilMs = this.#clock.nowMs() + whileMs
    return true
  }

  heard(id: string, said: ReplicaGauges): void {
    const standing = this.#standing(id)
    standing.gauges = { said, own: standing.inFlight, atMs: this.#clock.nowMs() }
  }

  /** Its last word; undefined when that is too old to mean anything. */
  gauges(id: string): ReplicaGauges | undefined {
    const gauges = this.#standings.get(id)?.gauges
    return gauges !== undefined && this.#clock.nowMs() - gauges.atMs <= this.#limits.gaugesMsMax
      ? gauges.said
      : undefined
  }

  /** The replica's last word, and what we have sent and got back since. */
  load(id: string): number {
    const { inFlight, gauges } = this.#standing(id)
    const said = this.gauges(id)
    if (gauges === undefined || said === undefined) return inFlight
    return Math.max(inFlight, said.running + said.waiting + inFlight - gauges.own)
  }

  inFlight(id: string): number {
    return this.#standings.get(id)?.inFlight ?? 0
  }

  isEjected(id: string): boolean {
    return (this.#standings.get(id)?.ejectedUntilMs ?? 0) > this.#clock.nowMs()
  }

  /** Forgets replicas that are in no fleet any more and run nothing of ours. */
  retain({ deployments }: Fleet): void {
    const ids = new Set(
      deployments.flatMap(({ versions }) => versions.flatMap(({ replicas }) => replicas.map((r) => r.id))),
    )
    for (const [id, { inFlight }] of this.#standings)
      if (!ids.has(id) && inFlight === 0) this.#standings.delete(id)
  }

  #nextBack(ready: readonly Replica[]): Replica[] {
    if (ready.length === 0) return []
    const until = ({ id }: Replica) => this.#standing(id).ejectedUntilMs
    return [ready.reduce((best, replica) => (until(replica) < until(best) ? replica : best))]
  }

  #standing(id: string): Standing {
    let standing = this.#standings.get(id)
    if (standing === undefined) {
      standing = { inFlight: 0, failures: 0, ejections: 0, ejectedUntilMs: 0, gauges: undefined }
      this.#standings.set(id, standing)
    }
    return standing
  }
}
