import type {
  DeploymentNotify,
  DeploymentState,
  Rollout,
  Scaling,
  VersionInput,
} from '../../api/control/deployments.ts'
import type { LineageNode } from '../models/lineage.ts'
import { type NounRow, Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'

/** What a name meant when a version was made of it; wherever the name points later, the version stays what it is. */
export interface Source {
  readonly checkpoint: string
  /** The model, by id, if one was named. */
  readonly model?: string
  /** What was named: a version of a model, or the checkpoint. */
  readonly node: LineageNode
}

export interface DeploymentVersion extends VersionInput {
  /** `v1`, `v2` ... within its deployment. */
  readonly id: string
  /** Unix milliseconds. */
  readonly at: number
  /** By the names in it. What is not here lies in the models folder of the machine. */
  readonly sources?: Readonly<Record<string, Source>>
}

/** What the user asked for. */
export interface DeploymentSpec {
  /** In order of their numbers. */
  readonly versions: readonly DeploymentVersion[]
  /** The one that should answer. */
  readonly target: string
  /** A person has decided for this candidate; no test is waited for. */
  readonly promoted?: string
  readonly scaling: Scaling
  readonly rollout: Rollout
  readonly public: boolean
  readonly defaults: Readonly<Record<string, unknown>>
  readonly requestLog: boolean
  readonly notify?: DeploymentNotify | null
}

export type ReplicaPhase = 'starting' | 'ready' | 'draining'

/** A replica is a run of its own with one member: each can be ended alone, and a late submit can only start itself. */
export interface ReplicaEntry {
  /** The run's id at the launcher. */
  readonly id: string
  readonly version: string
  readonly phase: ReplicaPhase
  readonly sinceMs: number
  /** Until when its time on devices was counted. */
  readonly countedMs?: number
  /** When it was first ready. */
  readonly readyMs?: number
  readonly url?: string
  readonly running?: number
  readonly waiting?: number
  /** Tokens that it has read and written; whether it moves says whether anybody asks. */
  readonly activity?: number
  /** Looks in a row in which it did not answer. */
  readonly silent?: number
}

export interface Candidate {
  readonly version: string
  readonly sinceMs: number
  /** Whether it has answered the questions of the gate. */
  readonly gate: 'pending' | 'passed'
  /** Since when it gets traffic, and what was counted of it then. */
  readonly judged?: { readonly sinceMs: number; readonly requests: number; readonly failures: number }
}

export interface VersionFaults {
  readonly count: number
  /** No replica of it is started before. */
  readonly notBeforeMs: number
  /** Why none is started at all until somebody changes the deployment. */
  readonly final?: string
}

/** What is. */
export interface DeploymentStatus {
  readonly replicas: readonly ReplicaEntry[]
  /** Runs that were ever begun: the next one's number. */
  readonly begun: number
  /** Null until a first version was ready. */
  readonly serving: string | null
  readonly candidate: Candidate | null
  /** What served before stays ready for a while. */
  readonly previous: { readonly version: string; readonly untilMs: number } | null
  /** Versions that have served: they need to prove nothing when they come back. */
  readonly served: readonly string[]
  readonly rejected: readonly string[]
  readonly faults: Readonly<Record<string, VersionFaults>>
  readonly lastActiveMs: number
  readonly lowSinceMs?: number
  /** Why a replica cannot be submitted (yet), while that is so. */
  readonly refusal?: string
  readonly message: string
}

export interface DeploymentEvent {
  readonly kind: `deployment.${string}`
  readonly message: string
  readonly details?: Readonly<Record<string, unknown>>
}

export interface DeploymentRow extends NounRow {
  readonly spec: DeploymentSpec
  readonly status: DeploymentStatus
  readonly state: DeploymentState
  /** Unix milliseconds of the next look. */
  readonly due_at: number
  /** When a request last waited for a replica. */
  readonly wanted_at: number
  /** Where its replicas run; the servers of this cluster look after it. */
  readonly cluster: string
  /** 1: everything of it is to end, then the row is deleted. */
  readonly ending: number
}

export const emptyStatus: DeploymentStatus = {
  replicas: [],
  begun: 0,
  serving: null,
  candidate: null,
  previous: null,
  served: [],
  rejected: [],
  faults: {},
  lastActiveMs: 0,
  message: 'It was just made.',
}

export function deploymentNouns(store: Store): Nouns<DeploymentRow> {
  return new Nouns<DeploymentRow>(store, 'deployments', 'dep')
}

/** Of the runs at a launcher, those that are replicas of deployments. */
export function isReplicaRun(run: string): boolean {
  return run.startsWith('dep_')
}

export function deploymentOf(run: string): string {
  return run.split('.', 1)[0]!
}
