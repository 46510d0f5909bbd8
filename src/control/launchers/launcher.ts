/**
 * What starts, watches and stops processes for the control plane, on whatever machines there are.
 *
 * A *run* is one submission under an id of ours: one attempt of a job, or the replicas of a deployment version.
 * It has *members* (ranks, replicas), each one process somewhere. Every operation may be repeated: callers retry
 * after any failure, also when they do not know whether the first call arrived. What is promised:
 *
 * - `submit` with an id that is known starts nothing twice; a member's command runs at most once, ever.
 * - States only go forward: starting, running, then ended or lost. After ended or lost nothing of that member
 *   runs, and nothing of it ever will.
 * - `cancel` of an id that was never submitted still counts: a submit that arrives later starts nothing.
 * - Whatever is created outside carries our id, so that `listOwned` finds it though our database forgot it.
 *
 * The suite in test/launchers holds every launcher to this.
 */
export interface Launcher {
  /** What the cluster's row names it: local, slurm, kubernetes. */
  readonly kind: string
  submit(request: RunRequest): Promise<Submission>
  observe(id: string): Promise<Observation>
  logs(id: string, query: LogQuery): Promise<LogPage>
  /** Asks every member to end (SIGTERM), and kills those that are still there after the grace. */
  cancel(id: string, graceMs: number): Promise<void>
  /** Makes so many members live: starts new ones (with indices never used before) or cancels the highest. */
  scale(id: string, members: number, graceMs: number): Promise<Submission>
  listOwned(): Promise<readonly string[]>
  /** Frees what an ended run left behind; false while something of it is live. Its id may not be used again. */
  remove(id: string): Promise<boolean>
}

export interface RunRequest {
  /** Ours; letters, digits, `_`, `-` and `.`, at most {@link runIdCharactersMax}. */
  readonly id: string
  /** Program and arguments, given to the system as they are: no shell reads them. */
  readonly command: readonly string[]
  /** Added to what the launcher lets through of its own environment; `RANK` and the like are the caller's. */
  readonly environment: Readonly<Record<string, string>>
  /** Added too, and kept nowhere: a submit that is repeated brings them again. */
  readonly secrets?: Readonly<Record<string, string>>
  /** Per member, in order; what is the same for all stands in `environment`. */
  readonly memberEnvironments?: readonly Readonly<Record<string, string>>[]
  /** Absolute path of the working directory. */
  readonly folder: string
  readonly members: number
  readonly devices?: DeviceDemand
  /** The command runs in a container of this image. */
  readonly container?: ContainerDemand
  readonly logBytesMax?: number
}

export interface DeviceDemand {
  readonly type: string
  readonly perMember: number
}

export interface ContainerDemand {
  readonly image: string
  readonly network: 'none' | 'bridge' | 'host'
  /** Folders of the machine, which the command finds under the same paths. */
  readonly mounts: readonly { readonly path: string; readonly readOnly: boolean }[]
  readonly memoryBytes?: number | undefined
  readonly cpus?: number | undefined
  readonly sharedMemoryBytes?: number | undefined
  /** To fetch the image. No launcher keeps it longer than the run, or shows it. */
  readonly login?: RegistryLogin
}

export interface RegistryLogin {
  readonly registry: string
  readonly username: string
  readonly password: string
}

export const submissionRefusals = {
  id_taken: 'Another run has this id.',
  cancelled: 'The run was cancelled before it was submitted.',
  no_devices: 'Not enough devices of this type are free on this cluster.',
  no_engine: 'Nothing on this cluster runs containers.',
  invalid: 'The request cannot be carried out here.',
} as const
export type SubmissionRefusal = keyof typeof submissionRefusals

export type Submission = { ok: true } | { ok: false; code: SubmissionRefusal; message: string }

export interface Observation {
  /** False when nothing under this id ever arrived, or when it was removed. */
  readonly known: boolean
  /** A cancel arrived: no member starts from now on. */
  readonly cancelled: boolean
  readonly members: readonly MemberObservation[]
}

/** A member that is starting for longer than this is submitted again: its wrapper may have died before its claim. */
export const startAgainMs = 15_000

export type MemberState = 'starting' | 'running' | 'ended' | 'lost'

export interface MemberObservation {
  readonly index: number
  readonly state: MemberState
  /** Unix milliseconds. */
  readonly startedMs?: number
  readonly endedMs?: number
  /** Of an ended member; absent when a signal or a failure to start ended it. */
  readonly exitCode?: number
  readonly signal?: string
  /** Why it could not start, or how it was lost. */
  readonly message?: string
  /** Of an ended member whose command never ran: it was cancelled before, or the program could not be started. */
  readonly neverStarted?: 'cancelled' | 'failed'
  /** Where a serving member says it listens: the content of the file that ROPEWAY_ADDRESS_FILE names. */
  readonly address?: string
  /** Indices of its devices, within their type. */
  readonly devices: readonly number[]
}

export interface LogQuery {
  readonly member: number
  /** Where the last page ended; from the oldest line that is kept without it. */
  readonly cursor?: string
  readonly bytesMax: number
}

export interface LogLine {
  readonly atMs: number
  readonly stream: 'out' | 'err'
  readonly text: string
}

export interface LogPage {
  readonly lines: readonly LogLine[]
  /** Give it with the next query. */
  readonly cursor: string
  /** Lines between the cursor and the first line here were rotated away. */
  readonly skipped: boolean
  /** The member has ended and there is nothing after this page. */
  readonly complete: boolean
}

export const runIdCharactersMax = 100
export const membersMax = 1024
const runIdPattern = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/

/** Run ids become file names and labels of other systems. */
export function isRunId(id: string): boolean {
  return id.length <= runIdCharactersMax && runIdPattern.test(id)
}

export function refuse(code: SubmissionRefusal, message: string = submissionRefusals[code]): Submission {
  return { ok: false, code, message }
}

/** Nothing of it runs, and nothing of it ever will: another attempt may start. */
export function isOver({ cancelled, known, members }: Observation): boolean {
  if (members.length === 0) return known && cancelled
  return members.every(({ state }) => state === 'ended' || state === 'lost')
}
