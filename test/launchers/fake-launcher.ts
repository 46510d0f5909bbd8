/**
 * A launcher on a machine that exists only as arithmetic over a manual clock, for simulations. The machine outlives
 * every launcher; the launcher between it and the caller loses calls and replies, delays and repeats them, shows old
 * observations, and dies at the n-th call.
 */
import { assert } from '../../src/base/assert.ts'
import type { ManualClock } from '../../src/base/clock.ts'
import type { Random } from '../../src/base/random.ts'
import {
  type Launcher,
  type LogPage,
  type LogQuery,
  type MemberObservation,
  type Observation,
  type RunRequest,
  refuse,
  type Submission,
} from '../../src/control/launchers/launcher.ts'
import { freeDevices } from '../../src/control/launchers/local/devices.ts'

/** How a command behaves once it was given to the machine. */
export interface FakeProgram {
  startMs: number
  /** The submit whose wrapper lives until it has claimed the member; those of earlier ones die before. The first if absent. */
  claimedBy?: number
  /** Until it ends by itself. */
  durationMs: number
  exitCode: number
  /** What SIGTERM does to it. */
  onTerm: { afterMs: number; exitCode: number } | 'ignore'
  lines?: readonly string[]
  failsToStart?: string
}

interface FakeMember {
  index: number
  program: FakeProgram
  submittedMs: number
  submits: number
  cancel?: { atMs: number; endsMs: number }
  lostMs?: number
  /** It ended by itself before its time. */
  own?: { endMs: number; exitCode: number }
  devices: readonly number[]
}

interface FakeRun {
  request: RunRequest | undefined
  cancel?: { atMs: number; endsMs: number }
  members: FakeMember[]
}

/** One member's life: `startMs` is undefined when its command never started. */
export interface Life {
  run: string
  request: RunRequest
  index: number
  startMs: number | undefined
  /** Infinity while it runs. */
  endMs: number
}

export class FakeMachine {
  readonly clock: ManualClock
  readonly #devices: Readonly<Record<string, number>>
  readonly #programOf: (request: RunRequest, member: number) => FakeProgram
  readonly #runs = new Map<string, FakeRun>()
  /** Runs that were removed, for judging the history. */
  readonly #removed: Life[] = []
  #due: { atMs: number; effect: () => void }[] = []

  constructor(
    clock: ManualClock,
    devices: Readonly<Record<string, number>>,
    programOf: (request: RunRequest, member: number) => FakeProgram,
  ) {
    this.clock = clock
    this.#devices = devices
    this.#programOf = programOf
  }

  /** What was delayed until now happens now. Call it after the clock moved. */
  settle(): void {
    const nowMs = this.clock.nowMs()
    const due = this.#due.filter(({ atMs }) => atMs <= nowMs).sort((a, b) => a.atMs - b.atMs)
    this.#due = this.#due.filter(({ atMs }) => atMs > nowMs)
    for (const { effect } of due) effect()
  }

  later(afterMs: number, effect: () => void): void {
    this.#due.push({ atMs: this.clock.nowMs() + afterMs, effect })
  }

  /** The machine under a member breaks. */
  lose(id: string, index: number): void {
    const member = this.#runs.get(id)?.members.find((one) => one.index === index)
    if (member !== undefined && lifeOf(member, this.clock.nowMs()).state === 'running')
      member.lostMs ??= this.clock.nowMs()
  }

  /** A member's program ends by itself now. */
  end(id: string, index: number, exitCode: number): void {
    const member = this.#runs.get(id)?.members.find((one) => one.index === index)
    if (member !== undefined && lifeOf(member, this.clock.nowMs()).state === 'running')
      member.own ??= { endMs: this.clock.nowMs(), exitCode }
  }

  lives(): Life[] {
    const present = [...this.#runs].flatMap(([run, { request, members }]) =>
      members.map((member) => this.#life(run, request!, member)),
    )
    return [...this.#removed, ...present]
  }

  #life(run: string, request: RunRequest, member: FakeMember): Life {
    const { started, endMs } = lifeOf(member, this.clock.nowMs())
    return { run, request, index: member.index, startMs: started, endMs }
  }

  submit(request: RunRequest): Submission {
    const known = this.#runs.get(request.id)
    if (known?.cancel !== undefined) return refuse('cancelled')
    if (known !== undefined) {
      const isSame = JSON.stringify(known.request) === JSON.stringify(request)
      if (!isSame) return refuse('id_taken')
      for (const member of known.members.filter((one) => !isClaimed(one))) {
        member.submits++
        member.submittedMs = this.clock.nowMs()
      }
      return { ok: true }
    }
    const assigned = this.#assign(request, request.members)
    if (assigned === undefined) return refuse('no_devices')
    const members = assigned.map((devices, index) => this.#member(request, index, devices))
    this.#runs.set(request.id, { request, members })
    return { ok: true }
  }

  #member(request: RunRequest, index: number, devices: readonly number[]): FakeMember {
    const submittedMs = this.clock.nowMs()
    return { index, devices, submittedMs, submits: 1, program: this.#programOf(request, index) }
  }

  #assign(request: RunRequest, members: number): number[][] | undefined {
    const { devices } = request
    if (devices === undefined) return Array.from({ length: members }, () => [])
    const taken = [...this.#runs.values()]
      .filter((run) => run.request?.devices?.type === devices.type)
      .flatMap((run) => run.members)
      .filter((member) => !isEnded(lifeOf(member, this.clock.nowMs())))
      .flatMap((member) => member.devices)
    return freeDevices(this.#devices[devices.type] ?? 0, new Set(taken), devices.perMember, members)
  }

  observe(id: string): Observation {
    const run = this.#runs.get(id)
    if (run === undefined) return { known: false, cancelled: false, members: [] }
    const nowMs = this.clock.nowMs()
    return {
      known: true,
      cancelled: run.cancel !== undefined,
      members: run.members.map((member) => observed(member, nowMs)),
    }
  }

  cancel(id: string, graceMs: number): void {
    const atMs = this.clock.nowMs()
    const run = this.#runs.get(id)
    if (run === undefined)
      this.#runs.set(id, { request: undefined, cancel: { atMs, endsMs: atMs }, members: [] })
    else {
      run.cancel = earlier(run.cancel, atMs, graceMs)
      for (const member of run.members) member.cancel = earlier(member.cancel, atMs, graceMs)
    }
  }

  scale(id: string, members: number, graceMs: number): Submission {
    const run = this.#runs.get(id)
    if (run?.request === undefined) return refuse('invalid')
    if (run.cancel !== undefined) return refuse('cancelled')
    const nowMs = this.clock.nowMs()
    const staying = run.members.filter(
      (member) => member.cancel === undefined && !isEnded(lifeOf(member, nowMs)),
    )
    for (const member of staying.slice(members)) member.cancel = earlier(undefined, nowMs, graceMs)
    const assigned = this.#assign(run.request, Math.max(0, members - staying.length))
    if (assigned === undefined) return refuse('no_devices')
    for (const devices of assigned)
      run.members.push(this.#member(run.request, (run.members.at(-1)?.index ?? -1) + 1, devices))
    return { ok: true }
  }

  logs(id: string, { member, cursor }: LogQuery): LogPage {
    const found = this.#runs.get(id)?.members.find(({ index }) => index === member)
    if (found === undefined)
      return { lines: [], cursor: cursor ?? '0', skipped: false, complete: !this.#runs.has(id) }
    const life = lifeOf(found, this.clock.nowMs())
    const all = life.started === undefined ? [] : (found.program.lines ?? [])
    const lines = all.slice(Number(cursor ?? 0)).map((text) => ({
      atMs: life.started ?? 0,
      stream: 'out' as const,
      text,
    }))
    return { lines, cursor: String(all.length), skipped: false, complete: isEnded(life) }
  }

  ids(): string[] {
    return [...this.#runs.keys()]
  }

  remove(id: string): boolean {
    const run = this.#runs.get(id)
    if (run === undefined) return true
    const nowMs = this.clock.nowMs()
    if (run.members.some((member) => !isEnded(lifeOf(member, nowMs)))) return false
    this.#removed.push(...run.members.map((member) => this.#life(id, run.request!, member)))
    this.#runs.delete(id)
    return true
  }
}

function earlier(
  before: FakeMember['cancel'],
  atMs: number,
  graceMs: number,
): { atMs: number; endsMs: number } {
  return {
    atMs: before?.atMs ?? atMs,
    endsMs: Math.min(before?.endsMs ?? Number.POSITIVE_INFINITY, atMs + graceMs),
  }
}

function isClaimed({ submits, program }: FakeMember): boolean {
  return submits >= (program.claimedBy ?? 1)
}

type Moment = ReturnType<typeof lifeOf>

/** Everything about a member follows from what happened to it and when. */
function lifeOf(member: FakeMember, nowMs: number) {
  const { program, cancel, submittedMs, lostMs, own } = member
  const startMs = isClaimed(member) ? submittedMs + program.startMs : Number.POSITIVE_INFINITY
  if (cancel !== undefined && cancel.atMs < startMs)
    return {
      state: 'ended' as const,
      started: undefined,
      endMs: cancel.atMs,
      message: 'It was cancelled before it started.',
      neverStarted: 'cancelled' as const,
    }
  if (nowMs < startMs)
    return { state: 'starting' as const, started: undefined, endMs: Number.POSITIVE_INFINITY }
  if (program.failsToStart !== undefined)
    return {
      state: 'ended' as const,
      started: undefined,
      endMs: startMs,
      message: program.failsToStart,
      neverStarted: 'failed' as const,
    }
  const ends: { endMs: number; exitCode?: number; signal?: string; lost?: boolean }[] = [
    { endMs: startMs + program.durationMs, exitCode: program.exitCode },
  ]
  if (own !== undefined) ends.push(own)
  if (lostMs !== undefined) ends.push({ endMs: lostMs, lost: true })
  if (cancel !== undefined) {
    const { onTerm } = program
    ends.push({ endMs: cancel.endsMs, signal: 'SIGKILL' })
    if (onTerm !== 'ignore') ends.push({ endMs: cancel.atMs + onTerm.afterMs, exitCode: onTerm.exitCode })
  }
  const { lost, ...first } = ends.sort((a, b) => a.endMs - b.endMs)[0]!
  if (nowMs < first.endMs)
    return { state: 'running' as const, started: startMs, endMs: Number.POSITIVE_INFINITY }
  return { state: lost === true ? ('lost' as const) : ('ended' as const), started: startMs, ...first }
}

function isEnded({ state }: Moment): boolean {
  return state === 'ended' || state === 'lost'
}

function observed(member: FakeMember, nowMs: number): MemberObservation {
  const { state, started, endMs, ...rest } = lifeOf(member, nowMs)
  return {
    index: member.index,
    state,
    devices: member.devices,
    ...(started !== undefined && { startedMs: started }),
    ...(Number.isFinite(endMs) && { endedMs: endMs }),
    ...rest,
  }
}

/** Chances in [0, 1] that a call goes wrong in this way. */
export interface FakeFaults {
  /** The call does not arrive. */
  lose: number
  /** The call arrives, its answer does not. */
  loseReply: number
  /** The call arrives after up to so long; the caller was told that it failed. */
  delay: number
  delayMsMax: number
  /** The call arrives twice. */
  repeat: number
  /** An observation shows an earlier moment. */
  stale: number
}

export const noFaults: FakeFaults = { lose: 0, loseReply: 0, delay: 0, delayMsMax: 0, repeat: 0, stale: 0 }

/** Whoever sees it was killed: nothing after the call happened. */
export class ServerDied extends Error {
  override name = 'ServerDied'
}

export class FakeLauncher implements Launcher {
  readonly kind = 'fake'
  readonly #machine: FakeMachine
  readonly #faults: FakeFaults
  readonly #random: Random | undefined
  readonly #dieAt: number | undefined
  readonly #seen = new Map<string, Observation[]>()
  calls = 0
  /** Nobody hears the calls of a server that was killed. */
  dead = false

  /** With `dieAt` n the n-th call (from 1) throws {@link ServerDied}: before its effect when n is odd, else after. */
  constructor(machine: FakeMachine, faults: FakeFaults = noFaults, random?: Random, dieAt?: number) {
    assert(random !== undefined || faults === noFaults, 'faults are drawn from a seed')
    this.#machine = machine
    this.#faults = faults
    this.#random = random
    this.#dieAt = dieAt
  }

  submit(request: RunRequest): Promise<Submission> {
    return this.#call(() => this.#machine.submit(request))
  }

  cancel(id: string, graceMs: number): Promise<void> {
    return this.#call(() => this.#machine.cancel(id, graceMs))
  }

  scale(id: string, members: number, graceMs: number): Promise<Submission> {
    return this.#call(() => this.#machine.scale(id, members, graceMs))
  }

  remove(id: string): Promise<boolean> {
    return this.#call(() => this.#machine.remove(id))
  }

  logs(id: string, query: LogQuery): Promise<LogPage> {
    return this.#call(() => this.#machine.logs(id, query))
  }

  listOwned(): Promise<readonly string[]> {
    return this.#call(() => this.#machine.ids())
  }

  observe(id: string): Promise<Observation> {
    return this.#call(() => {
      const now = this.#machine.observe(id)
      const seen = this.#seen.get(id) ?? []
      this.#seen.set(id, seen)
      seen.push(now)
      return this.#happens(this.#faults.stale) ? seen[this.#random!.integer(seen.length)]! : now
    })
  }

  async #call<T>(effect: () => T): Promise<T> {
    if (this.dead) throw new ServerDied()
    const number = ++this.calls
    const dies = number === this.#dieAt
    if (dies) this.dead = true
    if (dies && number % 2 === 1) throw new ServerDied()
    if (this.#happens(this.#faults.lose)) throw new Error('the machine does not answer (lost)')
    if (this.#happens(this.#faults.delay)) {
      this.#machine.later(this.#random!.uniform() * this.#faults.delayMsMax, effect)
      throw new Error('the machine does not answer (delayed)')
    }
    if (this.#happens(this.#faults.repeat)) effect()
    const result = effect()
    if (dies) throw new ServerDied()
    if (this.#happens(this.#faults.loseReply))
      throw new Error('the machine does not answer (its reply was lost)')
    return result
  }

  #happens(chance: number): boolean {
    return chance > 0 && this.#random!.uniform() < chance
  }
}
