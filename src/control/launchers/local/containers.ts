/**
 * Commands in containers, by podman or docker: argument lists alone, no shell. Secrets never stand in arguments, which
 * every user of the machine can read: variables go by name (`--env NAME` takes the value of the engine's own
 * environment), passwords of registries by a file. What would steer the engine itself ({@link isOfEngine}) is a setting,
 * never a secret, and goes by value.
 *
 * The client of the engine is the member's process, and its end has the command's exit code. A SIGTERM goes to the
 * command by the container's name ({@link terminateContainer}). The container may outlive its client, so whoever ends
 * a member removes the container by its name.
 */
import { execFile, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  accessSync,
  chmodSync,
  constants,
  lchownSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  statSync,
} from 'node:fs'
import { delimiter, isAbsolute, join } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import type { ContainerDemand, RegistryLogin } from '../launcher.ts'
import { names, writeSecret } from './run-folder.ts'

export const engine = z.object({
  kind: z.enum(['podman', 'docker']),
  program: z.string(),
  /** It can give a container the streams of its client; see {@link findEngine}. */
  passesStreams: z.boolean().optional(),
})
export type Engine = z.output<typeof engine>

export const engineMissing =
  'No program that runs containers works here. Install podman (apt-get install podman), or docker with its service.'

const probeMs = 15_000
const removeMs = 30_000
const askMs = 15_000
/** Of a timer. */
const timeoutMsMax = 2 ** 31 - 1
/** What both engines say of a name that no container has. */
const noContainer = /no such container|no container with/i
/** Tools that fork without end are stopped there. */
const processesMax = 4096
/** Who has all rights on the machine has none of them inside: the user "nobody". */
const nobody = 65_534

const known: { readonly [Kind in Engine['kind']]: readonly string[] } = {
  podman: ['info', '--format', '{{.Version.Version}} {{.Host.Security.SELinuxEnabled}}'],
  // Asks its service too: the program alone runs nothing.
  docker: ['info', '--format', '{{.ServerVersion}}'],
}

/**
 * The first of podman and docker that answers; undefined when none does.
 *
 * podman copies a container's output to its client by a socket that it may accept after the container began to write:
 * a short command's output was then lost. Since version 4 it can hand its own streams down instead. Under SELinux a
 * container may not write to a pipe that lies in a folder of ours, so there it goes on copying.
 */
export async function findEngine(environment: NodeJS.ProcessEnv): Promise<Engine | undefined> {
  for (const [kind, probe] of Object.entries(known) as [Engine['kind'], readonly string[]][]) {
    try {
      const program = programPath(kind, environment)
      if (program === undefined) continue
      const { stdout } = await promisify(execFile)(program, [...probe], {
        timeout: probeMs,
        env: environment,
      })
      return { kind, program, passesStreams: kind === 'podman' && passesStreams(stdout) }
    } catch (error) {
      // Not there, or not working: either way it is not the one.
      if (!(error instanceof Error)) throw error
    }
  }
  return undefined
}

/** Looked for once, here: a command's variables are its client's too, and its PATH is that of its image. */
function programPath(name: string, { PATH = '' }: NodeJS.ProcessEnv): string | undefined {
  return PATH.split(delimiter)
    .filter((folder) => isAbsolute(folder))
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return statSync(path).isFile()
      } catch {
        return false
      }
    })
}

/** `answer` is `<version> <whether SELinux confines containers>`. */
export function passesStreams(answer: string): boolean {
  const [version = '', hasSelinux] = answer.trim().split(' ')
  return Number.parseInt(version, 10) >= 4 && hasSelinux === 'false'
}

/** Variables that tell an engine where its service, storage and settings are. */
const engineVariable =
  /^(CONTAINERS_\w+|STORAGE_\w+|DOCKER_HOST|DOCKER_CONTEXT|XDG_RUNTIME_DIR|XDG_CONFIG_HOME)$/

export function engineEnvironment(environment: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(
    Object.entries(environment).flatMap(([name, value]) =>
      value !== undefined && engineVariable.test(name) ? [[name, value]] : [],
    ),
  )
}

/** By PATH and such the engine finds its own programs, files and service: what an image needs there is nothing to it. */
const ofEngine =
  /^(PATH|HOME|TMPDIR|LD_\w+|XDG_\w+|SSL_CERT_\w+|CONTAINERS_\w*CONF\w*|CONTAINER_(HOST|CONNECTION|SSHKEY)|STORAGE_(DRIVER|OPTS)|DOCKER_(HOST|CONTEXT|CONFIG|TLS\w*|CERT_PATH|API_VERSION)|REGISTRY_AUTH_FILE)$/

export function isOfEngine(variable: string): boolean {
  return ofEngine.test(variable)
}

/** By the member's folder too: a service that was restored from a backup beside the original knows the same runs. */
export function containerName(run: string, member: number, folder: string): string {
  const place = createHash('sha256').update(realpathSync(folder)).digest('hex').slice(0, 8)
  return `ropeway-${run}-${member}-${place}`
}

export interface ContainerMember {
  readonly run: string
  readonly name: string
  readonly container: ContainerDemand
  readonly command: readonly string[]
  readonly folder: string
  /** Names of the variables that the command finds and that are in the engine's environment. */
  readonly variables: readonly string[]
  /** Variables of the command that the engine must not see; see {@link isOfEngine}. */
  readonly settings: Readonly<Record<string, string>>
  /** Indices of its GPUs on the machine. */
  readonly gpus: readonly number[]
  /** Where the engine writes the container's id once there is one; no such file may be there. */
  readonly idFile: string
  /** Where the engine finds the registry's password, as {@link writeLogin} wrote it. */
  readonly loginFolder?: string
  readonly user: { readonly uid: number; readonly gid: number }
}

/** Program and arguments that run the member's command in a container. */
export function containerCommand(engine: Engine, member: ContainerMember): string[] {
  const { kind, program } = engine
  const { container, run, name, folder, user, loginFolder, gpus } = member
  const { network, memoryBytes, cpus, sharedMemoryBytes } = container
  return [
    ...[program, ...(kind === 'docker' && loginFolder !== undefined ? ['--config', loginFolder] : [])],
    ...['run', '--rm', '--name', name, '--cidfile', member.idFile, '--label', `ropeway.run=${run}`],
    ...['--user', `${user.uid}:${user.gid}`, '--workdir', folder, '--network', network],
    ...['--cap-drop', 'all', '--security-opt', 'no-new-privileges', '--pids-limit', String(processesMax)],
    ...(kind === 'podman' && loginFolder !== undefined
      ? ['--authfile', join(loginFolder, 'config.json')]
      : []),
    // Without root, podman would map the user to another one, who may not write into the mounts.
    ...(kind === 'podman' && user.uid !== nobody ? ['--userns', 'keep-id'] : []),
    ...(engine.passesStreams === true ? ['--log-driver', 'passthrough'] : []),
    ...(memoryBytes === undefined ? [] : ['--memory', String(memoryBytes)]),
    ...(cpus === undefined ? [] : ['--cpus', String(cpus)]),
    ...(sharedMemoryBytes === undefined ? [] : ['--shm-size', String(sharedMemoryBytes)]),
    ...gpuArguments(kind, gpus),
    ...container.mounts.flatMap(({ path, readOnly }) => ['--mount', mountText(path, readOnly)]),
    ...member.variables.flatMap((variable) => ['--env', variable]),
    ...Object.entries({ HOME: '/tmp', ...member.settings }).flatMap(([name, value]) => [
      ...['--env', `${name}=${value}`],
    ]),
    ...(gpus.length === 0 ? [] : ['--env', visibleInside(gpus.length)]),
    container.image,
    ...member.command,
  ]
}

function gpuArguments(kind: Engine['kind'], gpus: readonly number[]): string[] {
  if (gpus.length === 0) return []
  // docker reads a list with commas as fields; podman takes names of the container device interface.
  if (kind === 'docker') return ['--gpus', `"device=${gpus.join(',')}"`]
  return gpus.flatMap((index) => ['--device', `nvidia.com/gpu=${index}`])
}

/** Inside, the container's own GPUs count from 0. */
function visibleInside(count: number): string {
  return `CUDA_VISIBLE_DEVICES=${Array.from({ length: count }, (_, index) => index).join(',')}`
}

/** A line of CSV, as both engines read it. */
function mountText(path: string, readOnly: boolean): string {
  const fields = ['type=bind', `source=${path}`, `target=${path}`, ...(readOnly ? ['readonly'] : [])]
  return fields.map((field) => (/[",]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field)).join(',')
}

/** Who runs the command: never root. */
export function containerUser(): { uid: number; gid: number } {
  const { uid, gid } = { uid: process.getuid?.() ?? nobody, gid: process.getgid?.() ?? nobody }
  return uid === 0 ? { uid: nobody, gid: nobody } : { uid, gid }
}

/** Gives what is mounted for writing to the user of the container, where that is another one. Links are not followed. */
export function giveMounts({ mounts }: ContainerDemand, { uid, gid }: { uid: number; gid: number }): void {
  if (process.getuid?.() !== 0) return
  for (const { path, readOnly } of mounts) if (!readOnly) giveFolder(path, uid, gid)
}

function giveFolder(path: string, uid: number, gid: number): void {
  lchownSync(path, uid, gid)
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const inner = join(path, entry.name)
    if (entry.isDirectory()) giveFolder(inner, uid, gid)
    else lchownSync(inner, uid, gid)
  }
}

/** Keeps a registry's password for the engine, in its own form, beside the run (docker's config.json). */
export function writeLogin(runFolder: string, { registry, username, password }: RegistryLogin): void {
  const folder = join(runFolder, names.login)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  chmodSync(folder, 0o700)
  const auth = Buffer.from(`${username}:${password}`).toString('base64')
  writeSecret(join(folder, 'config.json'), { auths: { [registry]: { auth } } })
}

/**
 * Sends SIGTERM to the command of a container; 'hung' when the engine did not say in time whether it did.
 *
 * Clients hand signals on, but podman's listens for them only from some milliseconds after the command began. Until
 * then a SIGTERM ends the client at once, with exit code 0, and the command knows nothing of it. (A command that has no
 * handler yet ignores it: in its container it is the first process.)
 */
export async function terminateContainer(
  engine: Engine,
  container: string,
  environment: NodeJS.ProcessEnv,
): Promise<'told' | 'not running' | 'missing' | 'hung'> {
  const answer = await ask(engine, ['kill', '--signal', 'TERM', container], environment, askMs)
  if (answer.ok) return 'told'
  if (answer.timedOut) return 'hung'
  return noContainer.test(answer.stderr) ? 'missing' : 'not running'
}

/** Whether the command of a container is still to start, runs or ended; undefined where nobody says. */
export async function containerState(
  engine: Engine,
  container: string,
  environment: NodeJS.ProcessEnv,
): Promise<'before' | 'running' | 'behind' | undefined> {
  const command = ['container', 'inspect', '--format', '{{.State.Status}}', container]
  const answer = await ask(engine, command, environment, askMs)
  if (!answer.ok) return undefined
  const status = answer.stdout.trim()
  if (/^(configured|created|initialized)$/.test(status)) return 'before'
  return /^(running|paused|stopping)$/.test(status) ? 'running' : 'behind'
}

/** The exit code of a container's command; undefined when it does not end within `ms`. */
export async function exitCodeOf(
  engine: Engine,
  container: string,
  environment: NodeJS.ProcessEnv,
  ms: number,
): Promise<number | undefined> {
  if (ms <= 0) return undefined
  const answer = await ask(engine, ['wait', container], environment, ms)
  const code = Number.parseInt(answer.stdout, 10)
  return answer.ok && code >= 0 ? code : undefined
}

interface Answer {
  readonly ok: boolean
  readonly timedOut: boolean
  readonly stdout: string
  readonly stderr: string
}

async function ask(
  { program }: Engine,
  command: readonly string[],
  environment: NodeJS.ProcessEnv,
  timeout: number,
): Promise<Answer> {
  try {
    const said = await promisify(execFile)(program, [...command], {
      ...{ encoding: 'utf8', env: environment, killSignal: 'SIGKILL' },
      timeout: Math.min(timeout, timeoutMsMax),
    })
    return { ok: true, timedOut: false, ...said }
  } catch (error) {
    const { stdout = '', stderr = '', killed = false } = error as Partial<Answer> & { killed?: boolean }
    return { ok: false, timedOut: killed, stdout, stderr }
  }
}

/** Why the container may be there still; undefined once it is certain that it is not. */
export function removeContainer(
  { kind, program }: Engine,
  name: string,
  environment: NodeJS.ProcessEnv,
): string | undefined {
  const options = { encoding: 'utf8', timeout: removeMs, env: environment } as const
  // podman would ask first, and wait for ten seconds.
  const atOnce = kind === 'podman' ? ['--time', '0'] : []
  const { status, stderr, error } = spawnSync(program, ['rm', '--force', ...atOnce, name], options)
  if (error !== undefined) return `${program} could not remove ${name}: ${error.message}`
  if (status === 0 || noContainer.test(stderr)) return undefined
  return `${program} could not remove ${name}: ${stderr.trim().slice(0, 300)}`
}
