/** What the programs of simulated jobs do, and when: arithmetic over their environment. */
import type { JobRow } from '../../src/control/jobs/rows.ts'
import type { RunRequest } from '../../src/control/launchers/launcher.ts'
import type { FakeMachine, FakeProgram, Life } from '../launchers/fake-launcher.ts'

const stepMs = 1000

export function totalOf(row: JobRow): number {
  return Number((row.spec.file.env as Record<string, string>).TOTAL)
}

export function numberIn(row: JobRow, name: string): number {
  return Number((row.spec.file.env as Record<string, string>)[name])
}

/** Its time came, and it was not ended before by somebody else. */
export function failedForGood({ request, startMs, endMs }: Life): boolean {
  const isFinal = numberOf(request, 'ATTEMPT') === numberOf(request, 'FINAL')
  return isFinal && startMs !== undefined && endMs - startMs === programOf(request, 0).durationMs
}

export function numberOf(request: RunRequest, name: string): number {
  return Number(request.environment[name])
}

export function programOf(request: RunRequest, member: number): FakeProgram {
  const attempt = numberOf(request, 'ATTEMPT')
  const workMs = Math.max(0, numberOf(request, 'TOTAL') - numberOf(request, 'START')) * stepMs
  const base = { startMs: 300 + 170 * member, exitCode: 0, durationMs: workMs + 2500 * member }
  const onTerm =
    request.environment.STUBBORN === 'true' ? ('ignore' as const) : { afterMs: 700, exitCode: 143 }
  if (attempt <= numberOf(request, 'FAILING') || attempt === numberOf(request, 'FINAL'))
    return { ...base, onTerm, durationMs: Math.min(workMs, 4500), exitCode: 1 }
  if (attempt <= numberOf(request, 'FAILING') + numberOf(request, 'HANGING'))
    return { ...base, onTerm, durationMs: Number.POSITIVE_INFINITY }
  return { ...base, onTerm }
}

/** How far one life came. */
export function stepOf({ request, startMs, endMs }: Life, nowMs: number): number {
  if (startMs === undefined) return 0
  const start = numberOf(request, 'START')
  const attempt = numberOf(request, 'ATTEMPT')
  const isHanging =
    attempt > numberOf(request, 'FAILING') &&
    attempt <= numberOf(request, 'FAILING') + numberOf(request, 'HANGING')
  const own = Math.floor((Math.min(endMs, nowMs) - startMs) / stepMs)
  return Math.min(numberOf(request, 'TOTAL'), start + (isHanging ? Math.min(own, 2) : own))
}

/** Questions for checkpoints, and what programs answered: they look after each step. */
export class Saves {
  readonly #machine: FakeMachine
  readonly #askedMs = new Map<string, number>()
  readonly #saved: { job: string; run: string; step: number }[] = []

  constructor(machine: FakeMachine) {
    this.#machine = machine
  }

  ask(job: string, isAsked: boolean): void {
    if (!isAsked) this.#askedMs.delete(job)
    else if (!this.#askedMs.has(job)) this.#askedMs.set(job, this.#machine.clock.nowMs())
  }

  isAsked(job: string): boolean {
    this.#answer(job)
    return this.#askedMs.has(job)
  }

  /** Steps that were saved on demand, of one run or of all of the job. */
  of(job: string, run?: string): number[] {
    this.#answer(job)
    return this.#saved
      .filter((one) => one.job === job && (run === undefined || one.run === run))
      .map(({ step }) => step)
  }

  #answer(job: string): void {
    const askedMs = this.#askedMs.get(job)
    if (askedMs === undefined) return
    const lives = this.#machine
      .lives()
      .filter(({ request, endMs }) => request.environment.JOB === job && !Number.isFinite(endMs))
    const first = lives.find(({ index }) => index === 0)
    if (first === undefined) return
    const step = stepOf(first, this.#machine.clock.nowMs())
    if (step <= stepOf(first, Math.max(askedMs, first.startMs ?? 0))) return
    this.#askedMs.delete(job)
    this.#saved.push({ job, run: first.run, step })
    if (first.request.environment.ENDS_ON_SAVE === 'true')
      for (const { run, index } of lives) this.#machine.end(run, index, 0)
  }
}
