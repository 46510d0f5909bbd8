/** A training job shown in the terminal, shared by `train` and `start`. */
import { type Clock, systemClock } from '../base/clock.ts'
import { isInterruption, messageOf } from '../base/errors.ts'
import type { Evaluation } from '../train/evaluate/evaluations.ts'
import type { TrainingJob } from '../train/job.ts'
import type { Channel } from '../train/parallel/team.ts'
import type { JobResult, JobStart } from '../train/run-callbacks.ts'
import { runTrainingJob } from '../train/run-job.ts'
import type { StepFault, StepReport } from '../train/trainer.ts'
import { RunWatch } from '../train/watch/run-watch.ts'
import { both, contractReports } from './contract-reports.ts'
import { dataReport, derivedText, needsText } from './data-report.ts'
import { decodeWithEngine } from './decoder.ts'
import { LossCurve } from './loss-curve.ts'
import { bold, coloursOf, compact, dim, duration, green, note, ProgressLine, red } from './terminal.ts'

/** Half-life, in steps, of the averages that are shown. */
const smoothingSteps = 20

class Smooth {
  #value: number | undefined

  add(value: number): number {
    // A step that made no number would spoil every average after it.
    if (!Number.isFinite(value)) return this.#value ?? value
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
  channel?: Channel,
  clock: Clock = systemClock,
): Promise<JobResult> {
  const line = new ProgressLine()
  const loss = new Smooth()
  const curve = new LossCurve()
  const stepMs = new Smooth()
  let start: JobStart | undefined
  let lastMs = clock.nowMs()
  if (job.derived !== undefined)
    if (emit) emit({ event: 'derived', ...job.derived })
    else note(`${derivedText(job.derived)}\n`)
  const say = (text: string) => (emit ? emit({ event: 'note', text }) : line.note(text))
  const reports = contractReports(process.env.ROPEWAY_EVENTS, systemClock.unixMs)
  const watch = new RunWatch(job, systemClock, process.env, (text) => {
    reports.onNote?.(text)
    say(text)
  })
  try {
    const result = await runTrainingJob(
      job,
      {
        decode: decodeWithEngine,
        onPublished: (publication) => {
          if (emit) emit({ event: 'published', ...publication })
          else line.note(`step ${publication.stepsDone}: ${publication.version} answers`)
        },
        ...both(reports, {
          onNote: say,
          onData: (check) => {
            if (emit) emit({ event: 'data', ...check })
            else line.note(`${dataReport(check, coloursOf(process.stderr))}\n`)
          },
          onNeeds: (needs) => {
            if (emit) emit({ event: 'needs', ...needs })
            else line.note(needsText(needs, undefined, coloursOf(process.stderr)))
          },
          onStart: (begun) => {
            start = begun
            lastMs = clock.nowMs()
            watch.start(begun)
            if (emit) emit({ event: 'start', ...begun })
            else line.note(describe(begun))
          },
          onStep: (report) => {
            watch.step(report)
            if (start === undefined) return
            const nowMs = clock.nowMs()
            const ms = stepMs.add(nowMs - lastMs)
            lastMs = nowMs
            if (emit) {
              const secondsLeft = Math.round(((start.steps - report.step - 1) * ms) / 1000)
              emit({ event: 'step', ...report, secondsLeft })
              return
            }
            // A loss that only says which way to go says nothing to people; the reward does.
            const shown = report.metrics.reward ?? report.loss
            const smooth = loss.add(shown)
            curve.add(report.step + 1, shown)
            line.update((report.step + 1) / start.steps, progressText(start, report, smooth, ms), () =>
              curve.draw(Math.min(100, process.stderr.columns ?? 80), curveRows),
            )
          },
          onFault: (fault) => {
            watch.fault(fault)
            if (emit) emit({ event: 'fault', ...fault })
            else line.note(red(faultText(fault)))
          },
          onEvaluation: (evaluation) => {
            watch.evaluation(evaluation)
            if (emit) emit({ event: 'evaluation', ...evaluation })
            else line.note(evaluationText(evaluation))
            lastMs = clock.nowMs()
          },
          onCheckpoint: (checkpoint) => {
            watch.checkpoint(checkpoint.stepsDone, checkpoint.folder)
            if (emit) emit({ event: 'checkpoint', ...checkpoint })
          },
        }),
      },
      signal,
      channel,
    )
    line.end()
    await watch.end(result)
    return result
  } catch (error) {
    line.end()
    await watch.end({ outcome: isInterruption(error) ? 'stopped' : 'failed' }, messageOf(error))
    throw error
  } finally {
    line.end()
  }
}

/** Lines of the curve above the progress line. */
const curveRows = 6

/** `ms` is the usual time of a step, `loss` the usual loss, or reward where the step has one. */
export function progressText(
  start: Pick<JobStart, 'steps' | 'tokensPerStep'>,
  report: Omit<StepReport, 'outcome' | 'hash' | 'metrics' | 'elapsedMs'> &
    Partial<Pick<StepReport, 'metrics'>>,
  loss: number,
  ms: number,
): string {
  const { step, gradientNorm, learningRate, supervisedTokens, tokens, metrics = {} } = report
  const stepsDone = step + 1
  const { reward, groups_without_signal: silent = 0 } = metrics
  return [
    `step ${stepsDone}/${start.steps}`,
    `${reward === undefined ? 'loss' : 'reward'} ${loss.toFixed(3)}`,
    ...(silent > 0 ? [`${Math.round(100 * silent)} % of groups teach nothing`] : []),
    `${compact((start.tokensPerStep * 1000) / ms)} tokens/s`,
    `${duration(((start.steps - stepsDone) * ms) / 1000)} left`,
    `gradient ${gradientNorm.toPrecision(3)}`,
    `rate ${learningRate.toExponential(1)}`,
    ...(supervisedTokens < tokens ? [`${Math.round((100 * supervisedTokens) / tokens)} % learned`] : []),
  ].join('  ')
}

/** Of a fault so many samples are shown; the events have all. */
const samplesShownMax = 8

function faultText({ step, kind, action, loss, gradientNorm, usualNorm, samples }: StepFault): string {
  const what =
    kind === 'spike'
      ? `a gradient of length ${gradientNorm.toPrecision(4)}, where ${usualNorm.toPrecision(4)} is usual`
      : `loss ${loss}, gradient's length ${gradientNorm}`
  const shown = samples.slice(0, samplesShownMax).join(', ')
  const more = samples.length > samplesShownMax ? ` and ${samples.length - samplesShownMax} more` : ''
  return `step ${step}: ${what}; ${action.replace('_', ' ')}. Samples: ${shown}${more}`
}

function describe(start: JobStart): string {
  const resumed = start.stepsDone > 0 ? `, going on after step ${start.stepsDone}` : ''
  const beside = start.frozenParameters > 0 ? ` beside ${compact(start.frozenParameters)} frozen ones` : ''
  return (
    `${compact(start.parameters)} parameters${beside}, vocabulary ${compact(start.vocabularySize)}, ` +
    `${start.prompts === undefined ? `${compact(start.trainingTokens)} tokens to learn from` : `${compact(start.prompts)} prompts to answer`}; ${start.steps} steps of ${compact(start.tokensPerStep)} tokens ` +
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

function evaluationText(evaluation: Evaluation & { isBest: boolean }): string {
  const { stepsDone, loss, bitsPerByte, batches, tasks, rewards, samples, isBest } = evaluation
  const parts = [
    ...(loss === undefined ? [] : [`held-out loss ${bold(loss.toFixed(4))} ${dim(`(${batches} batches)`)}`]),
    ...(bitsPerByte === undefined ? [] : [`${bitsPerByte.toFixed(3)} bits per byte`]),
    ...(rewards.reward === undefined ? [] : [`held-out reward ${bold(rewards.reward.toFixed(4))}`]),
    ...Object.entries(tasks).map(([name, share]) => `${name} ${(share * 100).toFixed(1)} %`),
    ...(isBest ? ['the best so far'] : []),
  ]
  const panel = samples.map(({ prompt, text }) => `  ${dim(oneLine(prompt))} ${green(oneLine(text))}`)
  return [`step ${stepsDone}: ${parts.join(', ')}`, ...panel].join('\n')
}

/** Samples are data: they must not move the cursor. */
function oneLine(text: string): string {
  const escaped = text.replace(/\p{Cc}/gu, (one) => JSON.stringify(one).slice(1, -1))
  return escaped.length > 300 ? `${escaped.slice(0, 300)}...` : escaped
}
