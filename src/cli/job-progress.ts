/** A job of the service, shown while it runs as if it ran here. */
import * as api from '../api/control/job-endpoints.ts'
import type { JobView } from '../api/control/jobs.ts'
import { exitCodes } from '../base/errors.ts'
import type { Session } from './noun.ts'
import { line } from './output.ts'
import { shutdownSignal } from './shutdown.ts'
import { bold, dim, duration, note, ProgressLine } from './terminal.ts'

const curvePoints = 24
const bars = '▁▂▃▄▅▆▇█'

/** The newest values as a line of bars; empty for fewer than two. */
export function curve(values: readonly number[]): string {
  const shown = values.filter(Number.isFinite).slice(-curvePoints)
  if (shown.length < 2) return ''
  const [low, high] = [Math.min(...shown), Math.max(...shown)]
  const height = (value: number) => Math.round(((value - low) / (high - low || 1)) * (bars.length - 1))
  return shown.map((value) => bars[height(value)]).join('')
}

/** Shows the job until it is at rest, and sets the exit code. Ctrl-C leaves the job alone. */
export async function attach(session: Session, job: JobView, isJson: boolean): Promise<void> {
  const stop = shutdownSignal()
  const shown = new ProgressLine()
  const losses: number[] = []
  let last = job
  let told = ''
  if (!isJson) note(`${bold(job.name)} ${dim(job.id)}`)
  try {
    const params = { project: session.project, job: job.id }
    for await (const event of session.client.events(api.watchJob, { params, signal: stop.signal })) {
      last = event as JobView
      if (isJson) line(JSON.stringify(last))
      else told = show(last, shown, losses, told)
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error
    shown.end()
    note(
      `\n${last.name} goes on without you. ropeway job attach ${last.id} comes back, ropeway job stop ${last.id} stops it.`,
    )
    process.exitCode = exitCodes.interrupted
    return
  } finally {
    shown.end()
    stop.dispose()
  }
  if (last.state !== 'success') {
    if (!isJson) note(dim(`ropeway job why ${last.id}; ropeway job logs ${last.id}`))
    process.exitCode = exitCodes.failed
  }
}

/** Returns what was told last, so that it is told once. */
function show(job: JobView, shown: ProgressLine, losses: number[], told: string): string {
  const { state, message, total_steps, steps_done, step_ms, metrics } = job
  const news = `${state}: ${message}`
  if (news !== told) shown.note(news)
  if (state !== 'running' || total_steps === null) return news
  const loss = Object.entries(metrics).find(([name]) => /loss/.test(name))
  if (loss !== undefined && typeof loss[1] === 'number') losses.push(loss[1])
  const left = step_ms === null ? '' : `  ${duration(((total_steps - steps_done) * step_ms) / 1000)} left`
  const value = loss === undefined ? '' : `  ${loss[0]} ${Number(loss[1]).toPrecision(4)} ${curve(losses)}`
  shown.update(steps_done / total_steps, `step ${steps_done}/${total_steps}${value}${left}`)
  return news
}
