/** A job of the service, shown while it runs as if it ran here. */
import type { Client } from '../api/control/client.ts'
import * as api from '../api/control/job-endpoints.ts'
import type { JobView, MetricPoint } from '../api/control/jobs.ts'
import { exitCodes } from '../base/errors.ts'
import { LossCurve } from './loss-curve.ts'
import type { Session } from './noun.ts'
import { line } from './output.ts'
import { shutdownSignal } from './shutdown.ts'
import { bold, compact, dim, duration, note, ProgressLine } from './terminal.ts'

/** Shows the job until it is at rest, and returns it as it is then. Throws when `signal` is aborted before. */
export async function follow(
  { client, project }: Pick<Session, 'client' | 'project'>,
  job: JobView,
  isJson: boolean,
  signal: AbortSignal,
): Promise<JobView> {
  const screen = new ProgressLine()
  const display = new JobDisplay(screen, () => process.stderr.columns ?? 80)
  const losses = new LossReader(client, { project, job: job.id })
  let last = job
  if (!isJson) note(`${bold(job.name)} ${dim(job.id)}`)
  try {
    const params = { project, job: job.id }
    for await (const event of client.events(api.watchJob, { params, signal })) {
      last = event as JobView
      if (isJson) line(JSON.stringify(last))
      else display.show(last, await losses.after(last))
    }
    return last
  } finally {
    screen.end()
  }
}

/** Shows the job until it is at rest, and sets the exit code. Ctrl-C leaves the job alone. */
export async function attach(session: Session, job: JobView, isJson: boolean): Promise<void> {
  const stop = shutdownSignal()
  try {
    const last = await follow(session, job, isJson, stop.signal)
    if (last.state === 'success') return
    if (!isJson) note(dim(`ropeway job why ${last.id}; ropeway job logs ${last.id}`))
    process.exitCode = exitCodes.failed
  } catch (error) {
    if (!stop.signal.aborted) throw error
    note(
      `\n${job.name} goes on without you. ropeway job attach ${job.id} comes back, ropeway job stop ${job.id} stops it.`,
    )
    process.exitCode = exitCodes.interrupted
  } finally {
    stop.dispose()
  }
}

/** Of the metrics that a job reports, the one that is a loss: `loss` itself, or a name that holds the word. */
export function lossMetric(names: readonly string[]): string | undefined {
  return names.find((name) => name === 'loss') ?? names.find((name) => /(^|[^a-z])loss([^a-z]|$)/i.test(name))
}

const pagePoints = 5_000

/** Reads the points of a job's loss once each, also those from before anybody watched. */
class LossReader {
  readonly #client: Client
  readonly #params: { project: string; job: string }
  #after = -1
  #name: string | undefined

  constructor(client: Client, params: { project: string; job: string }) {
    this.#client = client
    this.#params = params
  }

  async after({ metrics, steps_done }: JobView): Promise<MetricPoint[]> {
    this.#name ??= lossMetric(Object.keys(metrics))
    if (this.#name === undefined || steps_done <= this.#after) return []
    const found: MetricPoint[] = []
    for (;;) {
      const query = { name: this.#name, after: this.#after, limit: pagePoints }
      const { items } = await this.#client.call(api.readJobMetric, { params: this.#params, query })
      found.push(...items)
      this.#after = items.at(-1)?.step ?? this.#after
      if (items.length < pagePoints) return found
    }
  }
}

/** Lines of the curve above the progress line. */
const curveRows = 6
const curveColumnsMax = 100

/** What is said of a job as it goes on: its states once each, its steps and its loss on a line and as a curve. */
export class JobDisplay {
  readonly #screen: Pick<ProgressLine, 'note' | 'update'>
  readonly #columns: () => number
  readonly #curve = new LossCurve()
  #told = ''

  constructor(screen: Pick<ProgressLine, 'note' | 'update'>, columns: () => number) {
    this.#screen = screen
    this.#columns = columns
  }

  /** `losses`: points that are new since the last time. */
  show(job: JobView, losses: readonly MetricPoint[]): void {
    const { state, message, total_steps, steps_done, step_ms, metrics } = job
    const news = `${state}: ${message}`
    if (news !== this.#told) this.#screen.note(news)
    this.#told = news
    for (const { step, value } of losses) this.#curve.add(step, Number(value))
    if (state !== 'running' || total_steps === null) return
    const name = lossMetric(Object.keys(metrics))
    const speed = metrics.tokens_per_second
    const parts = [
      `step ${steps_done}/${total_steps}`,
      ...(name === undefined ? [] : [`${name} ${Number(metrics[name]).toPrecision(4)}`]),
      ...(typeof speed === 'number' ? [`${compact(speed)} tokens/s`] : []),
      ...(step_ms === null ? [] : [`${duration(((total_steps - steps_done) * step_ms) / 1000)} left`]),
    ]
    this.#screen.update(steps_done / total_steps, parts.join('  '), () =>
      this.#curve.draw(Math.min(curveColumnsMax, this.#columns()), curveRows),
    )
  }
}
