/**
 * Who gets devices next: a pure function of what waits, what runs and what is allowed.
 *
 * Higher priority goes first. Among equals, the project with the smallest share of the devices goes first, and within
 * a project who came first. A job that has its turn and finds too few free devices keeps those behind it waiting for
 * the same ones, so nobody starves; it may take the devices of jobs of lower priority, which go on later from their
 * checkpoints. A job that its project's quota holds back holds back nobody else.
 */
import { ownValue } from '../../base/own.ts'

export interface Demand {
  readonly type: string
  readonly devices: number
}

export interface WaitingJob {
  readonly id: string
  readonly project: string
  readonly priority: number
  /** Sorts by who came first; a job that comes back keeps it. */
  readonly queuedAt: number
  /** Not before this time (Unix milliseconds). */
  readonly notBefore: number
  readonly demand: Demand
  /** Any cluster without it. */
  readonly cluster?: string | undefined
}

export interface ActiveJob {
  readonly id: string
  readonly project: string
  readonly priority: number
  readonly startedAt: number
  readonly demand: Demand
  readonly cluster: string
  /** Its devices are on their way back. */
  readonly stopping: boolean
}

export interface Cluster {
  readonly name: string
  /** Devices by type. */
  readonly slots: Readonly<Record<string, number>>
  /** False while it takes no new jobs. */
  readonly open: boolean
  /** Its server has not been seen for a while: it gets no new jobs until that is back. */
  readonly gone?: boolean
}

export interface Quota {
  readonly project: string
  readonly type: string
  readonly devices: number
}

export type WaitingReason =
  | { code: 'later'; untilMs: number }
  | { code: 'quota'; used: number; allowed: number }
  | { code: 'no_cluster' }
  | { code: 'cluster_gone'; clusters: readonly string[] }
  | { code: 'too_large'; largest: number }
  | { code: 'busy'; free: number; preempting: boolean }
  | { code: 'behind'; job: string }

export interface Plan {
  placements: { job: string; cluster: string }[]
  /** Jobs that are to give their devices back, and for whom. */
  preemptions: { job: string; for: string }[]
  /** Why each of the others waits. */
  waiting: Map<string, WaitingReason>
}

export function planJobs(
  waiting: readonly WaitingJob[],
  active: readonly ActiveJob[],
  clusters: readonly Cluster[],
  quotas: readonly Quota[],
  nowMs: number,
): Plan {
  return new Planner(active, clusters, quotas).plan(waiting, nowMs)
}

class Planner {
  readonly #active: readonly ActiveJob[]
  readonly #clusters: readonly Cluster[]
  readonly #quotas: Map<string, number>
  /** By project and type. */
  readonly #used = new Map<string, number>()
  /** By cluster and type. */
  readonly #free = new Map<string, number>()
  /** The job that first found too few devices, by cluster and type. */
  readonly #blocked = new Map<string, string>()
  readonly #doomed = new Set<string>()
  readonly #plan: Plan = { placements: [], preemptions: [], waiting: new Map() }

  constructor(active: readonly ActiveJob[], clusters: readonly Cluster[], quotas: readonly Quota[]) {
    this.#active = active
    this.#clusters = clusters
    this.#quotas = new Map(quotas.map(({ project, type, devices }) => [keyOf(project, type), devices]))
    for (const { name, slots } of clusters)
      for (const [type, devices] of Object.entries(slots)) this.#free.set(keyOf(name, type), devices)
    for (const job of active) {
      this.#take(job.cluster, job.demand, -1)
      this.#use(job.project, job.demand)
    }
  }

  plan(waiting: readonly WaitingJob[], nowMs: number): Plan {
    const due = waiting.filter((job) => {
      if (job.notBefore > nowMs) this.#plan.waiting.set(job.id, { code: 'later', untilMs: job.notBefore })
      return job.notBefore <= nowMs
    })
    const priorities = [...new Set(due.map(({ priority }) => priority))].sort((a, b) => b - a)
    for (const priority of priorities) this.#serve(due.filter((job) => job.priority === priority))
    return this.#plan
  }

  /** Jobs of one priority: always the first of the project that uses least. */
  #serve(jobs: readonly WaitingJob[]): void {
    const queues = new Map<string, WaitingJob[]>()
    for (const job of [...jobs].sort(byArrival)) {
      const queue = queues.get(job.project)
      if (queue === undefined) queues.set(job.project, [job])
      else queue.push(job)
    }
    while (queues.size > 0) {
      const [project, queue] = [...queues].sort(([a, jobsOfA], [b, jobsOfB]) => {
        const [headA, headB] = [jobsOfA[0]!, jobsOfB[0]!]
        return (
          this.#share(a, headA.demand.type) - this.#share(b, headB.demand.type) || byArrival(headA, headB)
        )
      })[0]!
      const reason = this.#place(queue.shift()!)
      if (queue.length === 0) queues.delete(project)
      if (reason !== undefined) this.#plan.waiting.set(reason.job, reason.why)
    }
  }

  #place(job: WaitingJob): { job: string; why: WaitingReason } | undefined {
    const { type, devices } = job.demand
    const waits = (why: WaitingReason) => ({ job: job.id, why })
    const allowed = this.#quotas.get(keyOf(job.project, type)) ?? Number.POSITIVE_INFINITY
    const used = this.#used.get(keyOf(job.project, type)) ?? 0
    if (used + devices > allowed) return waits({ code: 'quota', used, allowed })
    const open = this.#clusters.filter(
      ({ name, open: takesJobs }) => takesJobs && (job.cluster === undefined || job.cluster === name),
    )
    const possible = open.filter(({ gone }) => gone !== true)
    const largest = Math.max(0, ...possible.map(({ slots }) => ownValue(slots, type) ?? 0))
    if (largest < devices) {
      const lost = open.filter(({ gone, slots }) => gone === true && (ownValue(slots, type) ?? 0) >= devices)
      if (lost.length > 0) return waits({ code: 'cluster_gone', clusters: lost.map(({ name }) => name) })
      return waits(largest === 0 ? { code: 'no_cluster' } : { code: 'too_large', largest })
    }
    const fitting = possible.filter(({ slots }) => (ownValue(slots, type) ?? 0) >= devices)
    for (const { name } of fitting) {
      if (this.#blocked.has(keyOf(name, type)) || this.#freeOf(name, type) < devices) continue
      this.#take(name, job.demand, -1)
      this.#use(job.project, job.demand)
      this.#plan.placements.push({ job: job.id, cluster: name })
      return undefined
    }
    const ahead = fitting.map(({ name }) => this.#blocked.get(keyOf(name, type)))
    if (ahead.every((one) => one !== undefined)) return waits({ code: 'behind', job: ahead[0]! })
    return waits(this.#makeRoom(job, fitting))
  }

  /** Chooses what has to go, where the fewest have to, and keeps the devices for the job. */
  #makeRoom(job: WaitingJob, clusters: readonly Cluster[]): WaitingReason {
    const { type, devices } = job.demand
    const options = clusters
      .filter(({ name }) => !this.#blocked.has(keyOf(name, type)))
      .map(({ name }) => ({ name, victims: this.#victims(name, job) }))
    const best = options
      .filter(({ victims }) => victims !== undefined)
      .sort((a, b) => a.victims!.length - b.victims!.length)[0]
    const free = Math.max(...options.map(({ name }) => this.#freeOf(name, type)))
    for (const { name } of best === undefined ? options : [best]) this.#blocked.set(keyOf(name, type), job.id)
    for (const { id } of best?.victims ?? []) {
      this.#doomed.add(id)
      this.#plan.preemptions.push({ job: id, for: job.id })
    }
    if (best !== undefined) {
      // What is given back is the job's, and counts for its project from now on.
      this.#take(best.name, { type, devices }, -1)
      this.#use(job.project, job.demand)
    }
    return { code: 'busy', free: Math.max(0, free), preempting: best !== undefined }
  }

  /** The jobs to preempt, lowest priority and newest first; undefined when even all of them would not do. */
  #victims(cluster: string, job: WaitingJob): ActiveJob[] | undefined {
    const { type, devices } = job.demand
    const here = this.#active.filter((one) => one.cluster === cluster && one.demand.type === type)
    let free = this.#freeOf(cluster, type)
    for (const one of here) if (one.stopping || this.#doomed.has(one.id)) free += one.demand.devices
    const candidates = here
      .filter((one) => !one.stopping && !this.#doomed.has(one.id) && one.priority < job.priority)
      .sort((a, b) => a.priority - b.priority || b.startedAt - a.startedAt || (a.id < b.id ? 1 : -1))
    const victims: ActiveJob[] = []
    for (const candidate of candidates) {
      if (free >= devices) break
      free += candidate.demand.devices
      victims.push(candidate)
    }
    return free >= devices ? victims : undefined
  }

  /** Of the devices of this type everywhere. */
  #share(project: string, type: string): number {
    const all = this.#clusters.reduce((sum, { slots }) => sum + (ownValue(slots, type) ?? 0), 0)
    return (this.#used.get(keyOf(project, type)) ?? 0) / Math.max(1, all)
  }

  #freeOf(cluster: string, type: string): number {
    return this.#free.get(keyOf(cluster, type)) ?? 0
  }

  #take(cluster: string, { type, devices }: Demand, sign: 1 | -1): void {
    this.#free.set(keyOf(cluster, type), this.#freeOf(cluster, type) + sign * devices)
  }

  #use(project: string, { type, devices }: Demand): void {
    this.#used.set(keyOf(project, type), (this.#used.get(keyOf(project, type)) ?? 0) + devices)
  }
}

function byArrival(a: WaitingJob, b: WaitingJob): number {
  return a.queuedAt - b.queuedAt || (a.id < b.id ? -1 : 1)
}

function keyOf(owner: string, type: string): string {
  return `${owner}\0${type}`
}
