/**
 * Ropeway's side of a training program, in one file without dependencies: copy it beside yours.
 *
 *     import * as ropeway from './ropeway.ts'
 *
 *     const run = ropeway.init({ totalSteps: 1000 })
 *     if (run.inputCheckpoint !== undefined) load(run.inputCheckpoint) // an earlier attempt's newest, or the job's own
 *     while (ropeway.stepsDone() < run.totalSteps) {
 *       const loss = await ropeway.trainStep(() => step())
 *       ropeway.metric({ loss })
 *       const stop = ropeway.emergencySaveRequested()
 *       if (stop || ropeway.stepsDone() % 100 === 0) {
 *         save(ropeway.checkpointFolder()) // an empty folder
 *         ropeway.uploadCheckpoint() // from now on it is whole and will be found
 *       }
 *       if (stop) break
 *     }
 *
 * Outside of a job (no ROPEWAY_OUTPUT in the environment) the same code writes to ./ropeway-out and goes on from
 * there. The contract that it follows is docs/any-training-code.md. Node 20 or later.
 */
import { createHash } from 'node:crypto'
import {
  appendFileSync,
  closeSync,
  cpSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'

export interface Options {
  totalSteps: number
  /** How many checkpoints stay; all of them without it. */
  keep?: number
}

/** What this process is and where its things are. */
export interface Run {
  readonly totalSteps: number
  readonly keep: number | undefined
  readonly rank: number
  readonly worldSize: number
  readonly localRank: number
  readonly nodeRank: number
  readonly data: string | undefined
  readonly output: string
  readonly inputCheckpoint: string | undefined
  /** Steps that earlier attempts did. */
  readonly stepsDone: number
}

const heartbeatMs = 1000
const namePattern = /^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$/
const folderPattern = /^step-(\d{6,})$/
const manifestName = 'ropeway.json'

let current: Run | undefined
let step = 0
let lastHeartbeatMs = Number.NEGATIVE_INFINITY
let terminated = false
let listens = false
let warned = false

/** Begins, or goes on after `stepsDone` steps. */
export function init({ totalSteps, keep }: Options): Run {
  if (!Number.isInteger(totalSteps) || totalSteps < 1)
    throw new Error(`totalSteps must be a whole number of at least 1, not ${totalSteps}`)
  if (keep !== undefined && (!Number.isInteger(keep) || keep < 1))
    throw new Error(`keep must be a whole number of at least 1, not ${keep}`)
  const { env } = process
  const output = resolve(env.ROPEWAY_OUTPUT || 'ropeway-out')
  mkdirSync(output, { recursive: true })
  const own = env.ROPEWAY_OUTPUT ? undefined : newest(output)
  current = {
    totalSteps,
    keep,
    rank: Number(env.RANK || 0),
    worldSize: Number(env.WORLD_SIZE || 1),
    localRank: Number(env.LOCAL_RANK || 0),
    nodeRank: Number(env.NODE_RANK || 0),
    data: env.ROPEWAY_DATA || undefined,
    output,
    inputCheckpoint: own?.folder ?? (env.ROPEWAY_INPUT_CHECKPOINT || undefined),
    stepsDone: own?.step ?? Number(env.ROPEWAY_STEPS_DONE || 0),
  }
  step = current.stepsDone
  // What an attempt that was killed had not finished saving.
  if (current.rank === 0) rmSync(join(output, 'checkpoints', '.saving'), { recursive: true, force: true })
  emit('start', { total_steps: totalSteps, steps_done: step, rank: current.rank })
  return current
}

function running(): Run {
  if (current === undefined) throw new Error('ropeway.init({ totalSteps }) comes before everything else')
  return current
}

/** Steps that are done, those of earlier attempts included. */
export function stepsDone(): number {
  running()
  return step
}

/** One step. One that throws is not counted. */
export async function trainStep<T>(work: () => T | Promise<T>): Promise<T> {
  const { totalSteps } = running()
  const beginMs = performance.now()
  const result = await work()
  const nowMs = performance.now()
  step++
  if (nowMs - lastHeartbeatMs >= heartbeatMs || step >= totalSteps) {
    lastHeartbeatMs = nowMs
    emit('heartbeat', { step, step_ms: Math.round((nowMs - beginMs) * 1000) / 1000 })
  }
  // Node hands out signals between turns only, and a loop of ready promises never ends its turn.
  await new Promise((resume) => setImmediate(resume))
  return result
}

/** Numbers by name, of the step that was done last unless `at` says otherwise. */
export function metric(values: Readonly<Record<string, number>>, at?: number): void {
  running()
  const out: Record<string, number | string> = {}
  for (const [name, value] of Object.entries(values)) {
    if (!namePattern.test(name))
      throw new Error(`${name} is no name of a metric: letters, digits and _ . / -, at most 100`)
    // JSON has no NaN, and a loss that is NaN is what one wants to see most.
    out[name] = Number.isFinite(value) ? value : String(value)
  }
  if (Object.keys(out).length > 0) emit('metrics', { step: at ?? step, values: out })
}

/** The folder to save into before `uploadCheckpoint()`; it is there, and empty the first time after an upload. */
export function checkpointFolder(): string {
  const path = join(running().output, 'checkpoints', '.saving')
  mkdirSync(path, { recursive: true })
  return path
}

/**
 * Makes a checkpoint of `checkpointFolder()`, or of a copy of the file or folder `path`. Returns its folder. It
 * appears whole, with a hash of every file, or not at all. With several ranks, one of them calls it when all of them
 * have written.
 */
export function uploadCheckpoint(path?: string, at?: number): string {
  const { output, keep } = running()
  const number = at ?? step
  const root = join(output, 'checkpoints')
  const name = `step-${String(number).padStart(6, '0')}`
  const source = path === undefined ? join(root, '.saving') : join(root, `.${name}.tmp`)
  mkdirSync(root, { recursive: true })
  if (path !== undefined) {
    rmSync(source, { recursive: true, force: true })
    const isFolder = statSync(path).isDirectory()
    if (!isFolder) mkdirSync(source)
    cpSync(path, isFolder ? source : join(source, basename(path)), { recursive: true })
  }
  const files = existsSync(source) ? hashes(source) : {}
  if (Object.keys(files).length === 0) throw new Error(`there is nothing to upload in ${path ?? source}`)
  const manifest = JSON.stringify({ format: 1, step: number, files }, null, 1)
  writeFileSync(join(source, manifestName), manifest, { flush: true })
  const target = join(root, name)
  replaceFolder(source, target)
  emit('checkpoint', { step: number, folder: `checkpoints/${name}` })
  // Those of later steps are damaged, or the program would have gone on from them: they neither count nor go.
  const until = found(output).filter((one) => one.step <= number)
  if (keep !== undefined) for (const old of until.slice(0, -keep)) discard(old.folder)
  return target
}

/**
 * True when the job is about to be stopped or a save was asked for: save within this step. From the first call on,
 * SIGTERM no longer ends the program: it has to end itself.
 */
export function emergencySaveRequested(): boolean {
  running()
  if (!listens) {
    listens = true
    process.on('SIGTERM', () => {
      terminated = true
    })
  }
  const note = process.env.ROPEWAY_EMERGENCY
  return terminated || (note !== undefined && note !== '' && existsSync(note))
}

/** Ends the program with code 1 and says why. `final`: the same again would end the same, so it is not tried again. */
export function fail(why: string, final = true): never {
  emit('failure', { text: why.slice(0, 10_000), final })
  process.stderr.write(`${why}\n`)
  process.exit(1)
}

function emit(event: string, fields: object): void {
  const { output, rank } = running()
  const path = process.env.ROPEWAY_EVENTS || join(output, `events-${rank}.jsonl`)
  try {
    appendFileSync(path, `${JSON.stringify({ event, t: Date.now(), ...fields })}\n`, { mode: 0o600 })
  } catch (error) {
    // A full disk must not end the training; the log says once that reports are missing.
    if (!warned) process.stderr.write(`ropeway: events cannot be written: ${String(error)}\n`)
    warned = true
  }
}

type Hashes = Record<string, { bytes: number; sha256: string }>

function hashes(folder: string): Hashes {
  const files: Hashes = {}
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()
  for (const path of names.map((name) => join(folder, name))) {
    const name = relative(folder, path).split(sep).join('/')
    if (name !== manifestName && statSync(path).isFile()) files[name] = hashAndSync(path)
  }
  return files
}

function hashAndSync(path: string): { bytes: number; sha256: string } {
  const hash = createHash('sha256')
  const piece = Buffer.allocUnsafe(1 << 20)
  const file = openSync(path, 'r')
  let bytes = 0
  try {
    for (let read = readSync(file, piece); read > 0; read = readSync(file, piece)) {
      hash.update(piece.subarray(0, read))
      bytes += read
    }
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  return { bytes, sha256: hash.digest('hex') }
}

function asideOf(folder: string): string {
  return join(dirname(folder), `.${basename(folder)}.old.tmp`)
}

function replaceFolder(source: string, target: string): void {
  // The same step may be there from an earlier attempt; it makes way only when the new one is complete.
  const aside = asideOf(target)
  rmSync(aside, { recursive: true, force: true })
  if (existsSync(target)) renameSync(target, aside)
  renameSync(source, target)
  const folder = openSync(dirname(target), 'r')
  fsyncSync(folder)
  closeSync(folder)
  rmSync(aside, { recursive: true, force: true })
}

function discard(folder: string): void {
  // Renamed first, so that a folder that is half gone never looks like a checkpoint.
  const aside = asideOf(folder)
  renameSync(folder, aside)
  rmSync(aside, { recursive: true, force: true })
}

function found(output: string): { step: number; folder: string }[] {
  const root = join(output, 'checkpoints')
  if (!existsSync(root)) return []
  return readdirSync(root)
    .flatMap((name) => {
      const match = folderPattern.exec(name)
      return match === null ? [] : [{ step: Number(match[1]), folder: join(root, name) }]
    })
    .sort((a, b) => a.step - b.step)
}

function newest(output: string): { step: number; folder: string } | undefined {
  for (const candidate of found(output).reverse()) {
    if (isWhole(candidate.folder)) return candidate
    process.stderr.write(`ropeway: ${candidate.folder} is damaged; looking for an earlier checkpoint\n`)
  }
  return undefined
}

function isWhole(folder: string): boolean {
  try {
    const { files } = JSON.parse(readFileSync(join(folder, manifestName), 'utf8')) as { files: Hashes }
    const there = hashes(folder)
    const names = new Set([...Object.keys(files), ...Object.keys(there)])
    return [...names].every((name) => files[name]?.sha256 === there[name]?.sha256)
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}
