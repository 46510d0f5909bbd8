/** A training job shown in the terminal, shared by `train` and `start`. */
import type { TrainingJob } from '../train/job.ts'
import { type JobResult, type JobStart, runTrainingJob } from '../train/run-job.ts'
import { dataReport, derivedText } from './data-report.ts'
import { bold, coloursOf, compact, dim, duration, note, ProgressLine } from './terminal.ts'

/** Half-life, in steps, of the averages that are shown. */
const smoothingSteps = 20

class Smooth {
  #value: number | undefined

  add(value: number): number {
    const weight = this.#value === undefined ? 1 : 1 - 0.5 ** (1 / smoothingSteps)
    this.#value = (this.#value ?? 0) * (1 - weight) + value * weight
    return this.#value
  }
}

/** Runs the job with a progress line; `emit` gets every event as plain data instead when it is given. */
export async function runShown(
  job: TrainingJob,
  signal: AbortSignal,
  emit?: (event: Record<string, unknown>) => void,
): Promise<JobResult> {
  const line = new ProgressLine()
  const loss = new Smooth()
  const stepMs = new Smooth()
  let start: JobStart | undefined
  let lastMs = performance.now()
  if (job.derived !== undefined)
    if (emit) emit({ event: 'derived', ...job.derived })
    else note(`${derivedText(job.derived)}\n`)
  try {
    return await runTrainingJob(
      job,
      {
        onNote: (text) => (emit ? emit({ event: 'note', text }) : line.note(text)),
        onData: (check) => {
          if (emit) emit({ event: 'data', ...check })
          else line.note(`${dataReport(check, coloursOf(process.stderr))}\n`)
        },
        onStart: (begun) => {
          start = begun
          lastMs = performance.now()
          if (emit) emit({ event: 'start', ...begun })
          else line.note(describe(begun))
        },
        onStep: (report) => {
          if (emit) emit({ event: 'step', ...report })
          if (emit || start === undefined) return
          const nowMs = performance.now()
          const ms = stepMs.add(nowMs - lastMs)
          lastMs = nowMs
          const stepsDone = report.step + 1
          const left = start.steps - stepsDone
          const rate = compact((start.tokensPerStep * 1000) / ms)
          const smooth = loss.add(report.loss).toFixed(3)
          const counts = `step ${stepsDone}/${start.steps}`
          line.update(
            stepsDone / start.steps,
            `${counts}  loss ${smooth}  ${rate} tokens/s  ${duration((left * ms) / 1000)} left`,
          )
        },
        onEvaluation: ({ stepsDone, loss: held, batches }) => {
          if (emit) emit({ event: 'evaluation', stepsDone, loss: held, batches })
          else
            line.note(
              `step ${stepsDone}: held-out loss ${bold(held.toFixed(4))} ${dim(`(${batches} batches)`)}`,
            )
          lastMs = performance.now()
        },
        onCheckpoint: ({ stepsDone, folder }) => {
          if (emit) emit({ event: 'checkpoint', stepsDone, folder })
          lastMs = performance.now()
        },
      },
      signal,
    )
  } finally {
    line.end()
  }
}

function describe(start: JobStart): string {
  const resumed = start.stepsDone > 0 ? `, going on after step ${start.stepsDone}` : ''
  const beside = start.frozenParameters > 0 ? ` beside ${compact(start.frozenParameters)} frozen ones` : ''
  return (
    `${compact(start.parameters)} parameters${beside}, vocabulary ${compact(start.vocabularySize)}, ` +
    `${compact(start.trainingTokens)} tokens to learn from; ${start.steps} steps of ${compact(start.tokensPerStep)} tokens ` +
    `on ${start.device}, ${start.threads} threads${resumed}${describeSamples(start)}`
  )
}

function describeSamples({ samples }: JobStart): string {
  if (samples === undefined) return ''
  const share = (value: number) => `${(value * 100).toFixed(1)} %`
  const parts = [
    `${compact(samples.training)} samples to learn from, ${compact(samples.validation)} held out`,
    `${share(samples.trainedShare)} of the tokens are learned`,
    `rows are ${share(samples.fillRate)} full`,
    ...(samples.cut > 0 ? [`${compact(samples.cut)} samples were cut to the context`] : []),
    ...(samples.skipped > 0 ? [`${compact(samples.skipped)} records were left out`] : []),
  ]
  return `\n${parts.join(', ')}`
}
