/** A job's files on this machine: what an attempt is started with, and where its reports are read. */
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { resolve, sep } from 'node:path'
import { type RunJob, runJob } from '../../api/control/run-job.ts'
import { assert } from '../../base/assert.ts'
import { type Failure, messageOf, UserError } from '../../base/errors.ts'
import type { ContainerDemand, RegistryLogin, RunRequest } from '../launchers/launcher.ts'
import {
  emergencyNote,
  type Place,
  rankEnvironment,
  sdkFolder,
  sharedEnvironment,
  withPythonSdk,
} from './contract.ts'
import type { JobFolders } from './folders.ts'
import { newestWhole } from './output-checkpoints.ts'
import { type News, readNews } from './reports.ts'
import type { JobRow } from './rows.ts'
import type { Prepared, Workplace } from './workplace.ts'

/** Rendezvous ports of jobs, by a hash of the attempt: two jobs of one machine rarely meet, and a retry gets another. */
const portsFrom = 20_000
const portsCount = 10_000

const lasting: readonly Failure[] = ['not_found', 'usage', 'auth']

export interface LocalWorkplaceOptions {
  readonly folders: JobFolders
  /** How our trainer is started: program and arguments before `train`. */
  readonly trainer: readonly string[]
  /** Puts an uploaded workspace into the folder; done again, it changes nothing. */
  readonly unpack?: (row: JobRow, folder: string) => Promise<void>
  /** The variables of credentials; throws UserError when one of them is gone. */
  readonly secrets?: (project: string, credentials: readonly string[]) => Promise<Record<string, string>>
  /** What a credential of kind docker holds. */
  readonly registry?: (project: string, name: string) => Promise<RegistryLogin>
}

export class LocalWorkplace implements Workplace {
  readonly #options: LocalWorkplaceOptions

  constructor(options: LocalWorkplaceOptions) {
    this.#options = options
  }

  prepare(row: JobRow, onNote: (text: string) => void): Promise<Prepared> {
    return prepareAttempt(this.#options, row, onNote)
  }

  read(row: JobRow, nowMs: number): News {
    return readNews(row, this.#options.folders.output(row.id), nowMs)
  }

  askToSave(job: string, isAsked: boolean): void {
    const note = emergencyNote(this.#options.folders.output(job))
    if (isAsked) writeFileSync(note, '')
    else rmSync(note, { force: true })
  }

  isAskedToSave(job: string): boolean {
    return existsSync(emergencyNote(this.#options.folders.output(job)))
  }

  remove(job: string): void {
    this.#options.folders.remove(job)
  }
}

async function prepareAttempt(
  launch: LocalWorkplaceOptions,
  row: JobRow,
  onNote: (text: string) => void,
): Promise<Prepared> {
  const { folders } = launch
  folders.prepare(row.id)
  const workspace = folders.workspace(row.id)
  const filled = await fill(launch, row, workspace)
  if (!filled.ok) return filled
  const output = folders.output(row.id)
  // Of an attempt that ended before it could save.
  rmSync(emergencyNote(output), { force: true })
  const { processes, placement, kind } = row.spec
  const file = kind === 'run' ? runJob.parse(row.spec.file) : undefined
  const inside = (path: string | undefined) => (path === undefined ? undefined : within(workspace, path))
  const [data, from] = [inside(file?.data), inside(file?.from)]
  const folder = within(workspace, file?.workspace ?? '.')
  for (const [field, path] of Object.entries({ data, from, workspace: folder })) {
    if (path !== undefined && (!path.inside || !existsSync(path.path)))
      return { ok: false, message: `The ${field} of the job, ${path.given}, is not in its workspace.` }
  }
  const own = await newestWhole(output, (checkpoint, reason) =>
    onNote(`The checkpoint ${checkpoint} is damaged (${reason}); an earlier one is taken.`),
  )
  const place: Place = {
    job: row.name,
    attempt: row.attempt,
    output,
    data: data?.path,
    inputCheckpoint: own?.folder ?? from?.path,
    stepsDone: own?.step ?? 0,
    masterAddress: '127.0.0.1',
    masterPort: portsFrom + (hashOf(row.run_id!) % portsCount),
    worldSize: processes,
  }
  const secrets = await secretsOf(launch, row)
  if (!secrets.ok) return secrets
  const perNode = file?.processes ?? processes
  const command = file?.run ?? [
    ...launch.trainer,
    'train',
    folders.writeJobFile(row.id, row.spec.file),
    '--here',
    '--out',
    output,
  ]
  const request: RunRequest = {
    id: row.run_id!,
    command,
    environment: { ...file?.env, ...withPythonSdk(file?.env.PYTHONPATH), ...sharedEnvironment(place) },
    secrets: secrets.variables,
    memberEnvironments: Array.from({ length: processes }, (_, rank) =>
      rankEnvironment(place, rank, rank % perNode, perNode),
    ),
    folder: folder.path,
    members: processes,
    devices: { type: placement.device, perMember: placement.devices },
    ...(file?.image !== undefined && {
      container: await containerOf(launch, row, file),
    }),
  }
  return { ok: true, request }
}

/** What its file names and is not there, or may not be read, is not there a moment later either: that ends the job, and is told. */
async function fill(
  { unpack }: LocalWorkplaceOptions,
  row: JobRow,
  workspace: string,
): Promise<{ ok: true } | { ok: false; message: string }> {
  try {
    await unpack?.(row, workspace)
    return { ok: true }
  } catch (error) {
    if (!(error instanceof UserError) || error.mayPass || !lasting.includes(error.failure)) throw error
    return { ok: false, message: [error.message, error.fix].filter(Boolean).join(' ') }
  }
}

async function secretsOf(
  { secrets }: LocalWorkplaceOptions,
  { project_id, spec }: JobRow,
): Promise<{ ok: true; variables: Record<string, string> } | { ok: false; message: string }> {
  const { credentials = [] } = spec.placement
  if (credentials.length === 0) return { ok: true, variables: {} }
  assert(secrets, 'who gives jobs credentials can open them')
  try {
    return { ok: true, variables: await secrets(project_id, credentials) }
  } catch (error) {
    if (error instanceof UserError) return { ok: false, message: messageOf(error) }
    throw error
  }
}

/** The whole workspace is there, and the output; the SDK too, for PYTHONPATH names it. */
async function containerOf(
  { registry, folders }: LocalWorkplaceOptions,
  { id, project_id, spec }: JobRow,
  { image, network, memory, cpus, shared_memory, registry: credential }: RunJob,
): Promise<ContainerDemand> {
  const sdk = sdkFolder('python')
  assert(
    image !== undefined && (credential === undefined || registry !== undefined),
    'it has an image, and who knows its registry',
  )
  return {
    image,
    // Ranks find each other at an address of the machine.
    network: network ?? (spec.processes > 1 ? 'host' : 'bridge'),
    mounts: [
      { path: folders.workspace(id), readOnly: false },
      { path: folders.output(id), readOnly: false },
      ...(sdk === undefined ? [] : [{ path: sdk, readOnly: true }]),
    ],
    ...(memory !== undefined && { memoryBytes: memory }),
    ...(cpus !== undefined && { cpus }),
    ...(shared_memory !== undefined && { sharedMemoryBytes: shared_memory }),
    ...(credential !== undefined && { login: await registry!(project_id, credential) }),
  }
}

function within(root: string, path: string): { given: string; path: string; inside: boolean } {
  const found = resolve(root, path)
  return { given: path, path: found, inside: found === root || found.startsWith(`${root}${sep}`) }
}

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  return hash >>> 0
}
