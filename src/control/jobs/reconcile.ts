/**
 * Looks after the jobs that have devices: one look at a job reads its reports, asks its launcher, decides, and writes.
 *
 * It remembers nothing between looks. Whatever it does outside it may do again, and what it writes is refused when
 * another server has taken the job over since.
 */
import { assert } from '../../base/assert.ts'
import { messageOf } from '../../base/errors.ts'
import type { Launcher, SubmissionRefusal } from '../launchers/launcher.ts'
import { recordEvent } from '../store/events.ts'
import { giveUpRow, takeRows } from '../store/leases.ts'
import type { Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { Unstorable } from '../store/values.ts'
import { type AttemptView, type Decision, decide, type Move } from './decide.ts'
import { countDevices, countEveryMs } from './device-use.ts'
import { keepPoints, type News, progressOf } from './reports.ts'
import { type JobRow, jobNouns } from './rows.ts'
import { activeStates, isActive, type Reason, reasons } from './states.ts'
import { moveJob, type TransitionListener } from './transition.ts'
import type { Workplace } from './workplace.ts'

export interface ServedCluster {
  readonly launcher: Launcher
  readonly workplace: Workplace
}

export interface ReconcileOptions {
  readonly store: Store
  /** This loop of this server. */
  readonly owner: string
  /** Those that this server looks after, by name. */
  readonly clusters: ReadonlyMap<string, ServedCluster>
  readonly onMoved?: TransitionListener
  readonly onCheckpoint?: (row: JobRow, step: number) => void
  /** Hears of what went wrong outside, with the job's id. */
  readonly onTrouble: (job: string, error: unknown) => void
  /** What to do next; tests plant faults here. */
  readonly decide?: typeof decide
}

const leaseMs = 30_000
/** Jobs of one round. */
export const lookedAtMax = 50
/** State changes and pages of reports in one look; the next look goes on. */
const turnsMax = 32
/** Until the next look. */
const lookAgainMs = { allocating: 500, preparing: 300, running: 1_000, stopping: 300 } as const
const troubleAgainMs = 3_000
/** A cluster that is silent for so long is mentioned. */
const silenceMs = 30_000

/** Looks at every job that is due; returns how many there were. */
export async function reconcileDue(options: ReconcileOptions): Promise<number> {
  const jobs = jobNouns(options.store)
  const nowMs = options.store.clock.unixMs()
  const names = [...options.clusters.keys()]
  if (names.length === 0) return 0
  const rows = await takeRows(jobs, {
    owner: options.owner,
    forMs: leaseMs,
    limit: lookedAtMax,
    where: (is) =>
      is.and([is('state', 'in', [...activeStates]), is('due_at', '<=', nowMs), is('cluster', 'in', names)]),
  })
  for (const row of rows) await new Look(options, jobs, row).toEnd()
  return rows.length
}

class Look {
  readonly #options: ReconcileOptions
  readonly #jobs: Nouns<JobRow>
  readonly #launcher: Launcher
  readonly #workplace: Workplace
  #row: JobRow

  constructor(options: ReconcileOptions, jobs: Nouns<JobRow>, row: JobRow) {
    this.#options = options
    this.#jobs = jobs
    const { launcher, workplace } = options.clusters.get(row.cluster!)!
    this.#launcher = launcher
    this.#workplace = workplace
    this.#row = row
  }

  async toEnd(): Promise<void> {
    let afterMs: number
    try {
      afterMs = await this.#look()
    } catch (error) {
      if (error instanceof LostLease) return
      this.#options.onTrouble(this.#row.id, error)
      afterMs = troubleAgainMs
      if (error instanceof Unstorable) await this.#leaveOut(error)
      else await this.#noteSilence(messageOf(error))
    }
    await this.#lookAgain(afterMs)
  }

  /** Until there is nothing to do at once; returns after how long there may be. */
  async #look(): Promise<number> {
    for (let turn = 0; turn < turnsMax; turn++) {
      if (!isActive(this.#row.state)) return 0
      const { run_id } = this.#row
      assert(run_id !== null, 'a job with devices has an attempt')
      const observation = await this.#launcher.observe(run_id)
      // Before what was reported is read: a program that has answered meanwhile would be asked for a second save.
      const isToAsk =
        this.#row.status.saveAskedMs !== undefined && !this.#workplace.isAskedToSave(this.#row.id)
      // Read after the observation: what an ended rank wrote is then all there.
      const news = this.#workplace.read(this.#row, this.#nowMs())
      if (!(await this.#keep(news)) || news.hasAny) continue
      if (isToAsk) this.#workplace.askToSave(this.#row.id, true)
      const decision = (this.#options.decide ?? decide)(
        viewOf(this.#row),
        observation,
        progressOf(this.#row.status),
        this.#nowMs(),
      )
      if (!(await this.#carryOut(decision, run_id))) return lookAgainMs[viewOf(this.#row).state]
    }
    return 0
  }

  /** True when the job is in another state now. */
  async #carryOut(decision: Decision, run: string): Promise<boolean> {
    if (decision.do === 'move') return await this.#move(decision)
    if (decision.do === 'submit') return await this.#submit()
    if (decision.do === 'cancel') await this.#launcher.cancel(run, this.#row.spec.graceMs)
    return false
  }

  async #submit(): Promise<boolean> {
    const notes: string[] = []
    const prepared = await this.#workplace.prepare(this.#row, (text) => notes.push(text))
    for (const text of notes) await this.#note(text)
    if (!prepared.ok) return await this.#giveUp('cannot_prepare', prepared.message)
    const answer = await this.#launcher.submit(prepared.request)
    // The id is made of the job's, so whatever has it is this attempt, started from an earlier checkpoint.
    if (answer.ok || answer.code === 'id_taken') {
      if (this.#row.state !== 'allocating') return false
      return await this.#move({
        do: 'move',
        to: 'preparing',
        reason: 'submitted',
        message: 'Its cluster has taken it.',
      })
    }
    return await this.#giveUp(reasonOf[answer.code], answer.message)
  }

  async #giveUp(
    reason: 'cannot_prepare' | 'cannot_store' | 'cluster_refused' | 'cancelled_outside' | 'no_engine',
    message: string,
  ): Promise<boolean> {
    if (this.#row.state === 'stopping') return false
    return await this.#move({ do: 'move', to: 'stopping', reason, message })
  }

  async #move({ to, reason, message, notBeforeMs, retriesUsed, retryStep }: Move): Promise<boolean> {
    const row = this.#row
    const nowMs = this.#nowMs()
    const moved = await moveJob(
      this.#jobs,
      row,
      {
        to,
        reason,
        message,
        row: { ...(notBeforeMs !== undefined && { not_before: notBeforeMs }) },
        status: {
          ...(retriesUsed !== undefined && { retriesUsed }),
          ...(retryStep !== undefined && { retryStep }),
          ...(to === 'running' && row.status.startedMs === undefined && { startedMs: nowMs }),
        },
      },
      this.#options.onMoved,
    )
    if (moved === undefined) return await this.#readAgain()
    this.#row = moved
    return true
  }

  /** Somebody asked for something meanwhile: decide again, unless the job is no longer ours. */
  async #readAgain(): Promise<boolean> {
    const row = await this.#jobs.get(this.#row.id)
    if (row === undefined || row.lease_owner !== this.#options.owner || row.run_id !== this.#row.run_id)
      throw new LostLease()
    this.#row = row
    return true
  }

  /** False when the row was written by somebody else meanwhile: it was read again, and nothing was kept. */
  async #keep(news: News): Promise<boolean> {
    if (!news.hasAny && this.#row.status.silentSinceMs === undefined) return true
    const { silentSinceMs: _, silenceTold, saveAskedMs, ...rest } = news.status
    const isSaved = saveAskedMs !== undefined && news.checkpoints.length > 0
    if (isSaved) this.#workplace.askToSave(this.#row.id, false)
    const kept = saveAskedMs === undefined || isSaved ? rest : { ...rest, saveAskedMs }
    // What was said about the silence is over with it.
    const status = silenceTold === true ? { ...kept, message: reasons[kept.reason] } : kept
    const updated = await this.#options.store.transaction(async () => {
      const row = await this.#jobs.update(this.#row, { status })
      if (row === undefined) return undefined
      await keepPoints(this.#options.store, row.id, news.points)
      for (const text of news.notes) await this.#note(text)
      return row
    })
    if (updated === undefined) {
      await this.#readAgain()
      return false
    }
    this.#row = updated
    for (const step of news.checkpoints) this.#options.onCheckpoint?.(updated, step)
    return true
  }

  /** It would be refused at every look: the job ends with what was wrong, and its reports so far are passed over. */
  async #leaveOut({ message }: Unstorable): Promise<void> {
    const { status } = this.#workplace.read(this.#row, this.#nowMs())
    const failure = status.failure ?? { text: `${reasons.cannot_store} ${message}`, final: true }
    const row = await this.#jobs.update(this.#row, { status: { ...status, failure } })
    if (row === undefined) return
    this.#row = row
    await this.#giveUp('cannot_store', failure.text)
  }

  async #note(text: string): Promise<void> {
    const { id, project_id } = this.#row
    await recordEvent(this.#options.store, {
      subject: id,
      project: project_id,
      kind: 'job.note',
      message: text,
    })
  }

  /** Says once that the cluster does not answer, when that lasts. */
  async #noteSilence(why: string): Promise<void> {
    const nowMs = this.#nowMs()
    const { silentSinceMs = nowMs, silenceTold = false } = this.#row.status
    const tells = !silenceTold && nowMs - silentSinceMs >= silenceMs
    if (this.#row.status.silentSinceMs !== undefined && !tells) return
    if (tells)
      await this.#note(
        `Its cluster does not answer for ${Math.round((nowMs - silentSinceMs) / 1000)} s: ${why}`,
      )
    const status = { ...this.#row.status, silentSinceMs, ...(tells && { silenceTold: true }) }
    const row = await this.#jobs.update(this.#row, { status })
    if (row !== undefined) this.#row = row
  }

  /** Puts the time of its devices into the usage, now and then; the rest comes when it gives them back. */
  async #count(): Promise<void> {
    const row = this.#row
    const nowMs = this.#nowMs()
    if (!isActive(row.state) || nowMs - (row.status.countedMs ?? row.since) < countEveryMs) return
    await this.#options.store.transaction(async () => {
      const counted = await this.#jobs.update(row, { status: { ...row.status, countedMs: nowMs } })
      if (counted === undefined) return
      await countDevices(this.#options.store, row, nowMs)
      this.#row = counted
    })
  }

  async #lookAgain(afterMs: number): Promise<void> {
    await this.#count()
    if (isActive(this.#row.state)) await this.#jobs.update(this.#row, { due_at: this.#nowMs() + afterMs })
    await giveUpRow(this.#jobs, this.#row.id, this.#options.owner)
  }

  #nowMs(): number {
    return this.#options.store.clock.unixMs()
  }
}

/** What a refusal of the launcher is for the job. */
const reasonOf = {
  cancelled: 'cancelled_outside',
  no_devices: 'cluster_refused',
  no_engine: 'no_engine',
  invalid: 'cannot_prepare',
} as const satisfies { readonly [Code in Exclude<SubmissionRefusal, 'id_taken'>]: Reason }

/** Another server looks after the job by now. */
class LostLease extends Error {
  override name = 'LostLease'
}

function viewOf(row: JobRow): AttemptView {
  const { placement } = row.spec
  return {
    id: row.id,
    state: row.state as AttemptView['state'],
    stopRequested: row.stop_requested === 1,
    preempted: row.preempted === 1,
    saveAsked: row.status.saveAttempt === row.attempt,
    sinceMs: row.since,
    cause: row.status.cause,
    retriesUsed: row.status.retriesUsed,
    retryStep: row.status.retryStep,
    limits: {
      retries: placement.retries,
      heartbeatMs: placement.heartbeat_timeout,
      timeMs: placement.time_limit,
    },
  }
}
