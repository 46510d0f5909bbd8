/** A `run:` job in the foreground on this machine, with the environment that it has as a job of the service. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { resolve } from 'node:path'
import type { RunJob } from '../api/control/run-job.ts'
import { UserError } from '../base/errors.ts'
import {
  emergencyNote,
  eventsFile,
  type Place,
  rankEnvironment,
  sharedEnvironment,
  withPythonSdk,
} from '../control/jobs/contract.ts'
import { type ContractEvent, readEvents } from '../control/jobs/contract-events.ts'
import { newestWhole, whatIsDamaged } from '../control/jobs/output-checkpoints.ts'
import { LineCutter } from '../control/launchers/local/log-files.ts'
import { sendSignal } from '../control/launchers/local/process-identity.ts'
import { compact, duration, ProgressLine } from './terminal.ts'

export interface RunHereResult {
  outcome: 'finished' | 'stopped' | 'failed'
  /** Of the rank that ended first in a way that was not 0. */
  message?: string
  stepsDone: number
}

type Emit = (event: Record<string, unknown>) => void

const pollMs = 200

/**
 * Starts every rank and waits for all of them. When `signal` is aborted they are asked to save and to end, and killed
 * after the grace; when one fails, the others are stopped. Paths in the job are relative to `folder`.
 */
export async function runHere(
  job: RunJob,
  folder: string,
  signal: AbortSignal,
  emit?: Emit,
): Promise<RunHereResult> {
  const line = new ProgressLine()
  const place = await placeOf(job, folder, (text) => (emit ? emit({ event: 'note', text }) : line.note(text)))
  const run = new HereRun(job, resolve(folder, job.workspace), place, line, emit)
  const timer = setInterval(() => run.poll(), pollMs)
  const stop = () => run.stop()
  signal.addEventListener('abort', stop, { once: true })
  try {
    if (signal.aborted) stop()
    return await run.ended(signal)
  } finally {
    signal.removeEventListener('abort', stop)
    clearInterval(timer)
    line.end()
  }
}

async function placeOf(job: RunJob, folder: string, onNote: (text: string) => void): Promise<Place> {
  const at = (path: string | undefined) => (path === undefined ? undefined : resolve(folder, path))
  const output = resolve(folder, job.out)
  const [workspace, data, from] = [at(job.workspace)!, at(job.data), at(job.from)]
  for (const [field, path] of Object.entries({ workspace, data, from })) {
    if (path !== undefined && !existsSync(path))
      throw new UserError(`The ${field} of the job, ${path}, is not there.`, { failure: 'not_found' })
  }
  mkdirSync(output, { recursive: true })
  rmSync(emergencyNote(output), { force: true })
  const own = await newestWhole(output, (checkpoint, reason) =>
    onNote(`The checkpoint ${checkpoint} is damaged (${reason}); looking for an earlier one.`),
  )
  const damage = own === undefined && from !== undefined ? await damageOfInput(from) : undefined
  if (damage !== undefined) throw new UserError(`The checkpoint ${from} is damaged: ${damage}.`)
  return {
    job: job.name,
    attempt: nextAttempt(output),
    output,
    data,
    inputCheckpoint: own?.folder ?? from,
    stepsDone: own?.step ?? 0,
    masterAddress: '127.0.0.1',
    masterPort: await freePort(),
    worldSize: job.nodes * job.processes,
  }
}

/** Somebody else's checkpoint may have no manifest of ours; one of ours must match it. */
async function damageOfInput(folder: string): Promise<string | undefined> {
  const reason = await whatIsDamaged(folder)
  return reason === 'it has no manifest' ? undefined : reason
}

function nextAttempt(output: string): number {
  for (let attempt = 1; ; attempt++) if (!existsSync(eventsFile(output, attempt, 0))) return attempt
}

function freePort(): Promise<number> {
  const server = createServer()
  return new Promise((found, reject) => {
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => found(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

interface End {
  rank: number
  code: number | null
  signal: NodeJS.Signals | null
  error?: string
}

class HereRun {
  readonly #job: RunJob
  readonly #place: Place
  readonly #line: ProgressLine
  readonly #emit: Emit | undefined
  readonly #children: ChildProcess[]
  readonly #ends: Promise<End>[]
  readonly #offsets: number[]
  #killTimer: NodeJS.Timeout | undefined
  #stepsDone: number
  #totalSteps: number | undefined
  #firstFailure: End | undefined
  /** Why, in the words of the rank that said it first. */
  #reason: string | undefined
  #stopping = false

  constructor(job: RunJob, workspace: string, place: Place, line: ProgressLine, emit: Emit | undefined) {
    this.#job = job
    this.#place = place
    this.#line = line
    this.#emit = emit
    this.#stepsDone = place.stepsDone
    this.#offsets = Array.from({ length: place.worldSize }, () => 0)
    // Its own file says that this attempt happened, also when the program uses no SDK.
    writeFileSync(eventsFile(place.output, place.attempt, 0), '', { flag: 'a' })
    this.#children = this.#offsets.map((_, rank) => this.#spawn(workspace, rank))
    this.#ends = this.#children.map((child, rank) => this.#watch(child, rank))
  }

  #spawn(workspace: string, rank: number): ChildProcess {
    const { run, env, processes } = this.#job
    const isAlone = this.#place.worldSize === 1
    const child = spawn(run[0]!, run.slice(1), {
      cwd: workspace,
      env: {
        ...process.env,
        ...env,
        ...withPythonSdk(env.PYTHONPATH ?? process.env.PYTHONPATH),
        ...sharedEnvironment(this.#place),
        ...rankEnvironment(this.#place, rank, rank % processes, processes),
      },
      // With --json, stdout is for events.
      stdio: isAlone ? ['ignore', this.#emit ? 2 : 'inherit', 'inherit'] : ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    for (const source of [child.stdout, child.stderr]) {
      const cutter = new LineCutter((text) => this.#line.note(`[${rank}] ${text}`))
      source?.on('data', (bytes: Uint8Array) => cutter.push(bytes))
      source?.on('end', () => cutter.end())
    }
    return child
  }

  async #watch(child: ChildProcess, rank: number): Promise<End> {
    const end = await new Promise<End>((resolve) => {
      child.on('error', (error) => resolve({ rank, code: null, signal: null, error: error.message }))
      child.on('exit', (code, signal) => resolve({ rank, code, signal }))
    })
    if (child.pid !== undefined) sendSignal(-child.pid, 'SIGKILL')
    if (end.code !== 0) {
      this.#firstFailure ??= end
      this.stop()
    }
    return end
  }

  /** Asks for a save and an end; kills after the grace. */
  stop(): void {
    if (this.#stopping) return
    this.#stopping = true
    writeFileSync(emergencyNote(this.#place.output), '')
    this.#signal('SIGTERM')
    this.#killTimer = setTimeout(() => this.#signal('SIGKILL'), this.#job.grace)
  }

  #signal(signal: NodeJS.Signals): void {
    for (const { pid, exitCode, signalCode } of this.#children)
      if (pid !== undefined && exitCode === null && signalCode === null) sendSignal(-pid, signal)
  }

  async ended(signal: AbortSignal): Promise<RunHereResult> {
    await Promise.all(this.#ends)
    clearTimeout(this.#killTimer)
    rmSync(emergencyNote(this.#place.output), { force: true })
    this.poll()
    const stepsDone = this.#stepsDone
    const isWhole = this.#firstFailure === undefined
    if (signal.aborted) {
      const isFinished = isWhole && stepsDone === this.#totalSteps
      return { outcome: isFinished ? 'finished' : 'stopped', stepsDone }
    }
    if (isWhole) return { outcome: 'finished', stepsDone }
    return { outcome: 'failed', stepsDone, message: this.#describe(this.#firstFailure!) }
  }

  #describe({ rank, code, signal, error }: End): string {
    const who = this.#job.processes === 1 ? this.#job.run[0]! : `Rank ${rank}`
    if (error !== undefined) return `${who} could not be started: ${error}.`
    const end = code === null ? `${who} was ended by ${signal}.` : `${who} ended with code ${code}.`
    return this.#reason === undefined ? end : `${this.#reason} ${end}`
  }

  /** Passes on what was reported since the last time. */
  poll(): void {
    for (const [rank, offset] of this.#offsets.entries()) {
      const page = readEvents(eventsFile(this.#place.output, this.#place.attempt, rank), offset)
      this.#offsets[rank] = page.offset
      for (const event of page.events) {
        if (this.#emit !== undefined) this.#emit({ rank, ...event })
        if (event.event === 'failure') this.#reason ??= event.text
        if (rank === 0) this.#note(event)
      }
    }
  }

  #note(event: ContractEvent): void {
    if (event.event === 'start') this.#totalSteps = event.total_steps
    if (event.event === 'heartbeat') this.#stepsDone = Math.max(this.#stepsDone, event.step)
    if (this.#emit !== undefined) return
    if (event.event === 'note') this.#line.note(event.text)
    if (event.event === 'checkpoint') this.#line.note(`step ${event.step}: checkpoint ${event.folder}`)
    if (event.event === 'metrics') this.#metrics = describeMetrics(event.values)
    if (event.event !== 'heartbeat' || this.#totalSteps === undefined) return
    const left = duration(((this.#totalSteps - event.step) * event.step_ms) / 1000)
    const text = `step ${event.step}/${compact(this.#totalSteps)}${this.#metrics}  ${left} left`
    this.#line.update(event.step / this.#totalSteps, text)
  }

  #metrics = ''
}

const metricsShown = 4

function describeMetrics(values: Readonly<Record<string, number | string>>): string {
  return Object.entries(values)
    .slice(0, metricsShown)
    .map(([name, value]) => `  ${name} ${typeof value === 'number' ? Number(value.toPrecision(4)) : value}`)
    .join('')
}
