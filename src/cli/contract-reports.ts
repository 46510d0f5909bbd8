/** What our own trainer reports as a job: the same lines that any program writes (docs/any-training-code.md). */
import { appendFileSync } from 'node:fs'
import { basename } from 'node:path'
import { isInterruption, messageOf, systemRefusal, UserError } from '../base/errors.ts'
import { type ContractEvent, textCharactersMax } from '../control/jobs/contract-events.ts'
import { evaluationMetrics } from '../train/evaluate/evaluations.ts'
import type { JobCallbacks } from '../train/run-callbacks.ts'
import type { StepReport } from '../train/trainer.ts'
import { note } from './terminal.ts'

type Reported = Pick<
  JobCallbacks,
  'onStart' | 'onStep' | 'onEvaluation' | 'onSaving' | 'onCheckpoint' | 'onNote'
>
// Distributed over the kinds of events.
type Untimed<Event> = Event extends ContractEvent ? Omit<Event, 't'> : never

const everyMs = 1_000

/** Callbacks that append to the file that ROPEWAY_EVENTS names; none outside of a job. */
export function contractReports(path: string | undefined, unixMs: () => number): Reported {
  if (path === undefined || path === '') return {}
  const emit = emitter(path, unixMs)
  let totalSteps = 0
  let tokensPerStep = 0
  let lastMs = Number.NEGATIVE_INFINITY
  let unsaid: StepReport | undefined
  const number = (value: number) => (Number.isFinite(value) ? value : (String(value) as 'NaN'))
  const say = ({ step, loss, gradientNorm, learningRate, metrics, elapsedMs }: StepReport) => {
    const pace = elapsedMs > 0 ? { tokens_per_second: Math.round((tokensPerStep * 1000) / elapsedMs) } : {}
    const values = { loss, gradient_norm: gradientNorm, learning_rate: learningRate, ...pace, ...metrics }
    const entries = Object.entries(values).map(([name, value]) => [name, number(value)])
    emit({ event: 'metrics', step: step + 1, values: Object.fromEntries(entries) })
    emit({ event: 'heartbeat', step: step + 1, step_ms: elapsedMs })
  }
  /** Of steps within a second one is told; what is evaluated or saved is told by its own step. */
  const sayLast = () => {
    if (unsaid !== undefined) say(unsaid)
    unsaid = undefined
  }
  return {
    onStart: ({ steps, stepsDone, tokensPerStep: tokens }) => {
      totalSteps = steps
      tokensPerStep = tokens
      emit({ event: 'start', total_steps: steps, steps_done: stepsDone, rank: 0 })
    },
    onStep: (report) => {
      const nowMs = unixMs()
      unsaid = report
      if (nowMs - lastMs < everyMs && report.step + 1 < totalSteps) return
      lastMs = nowMs
      sayLast()
    },
    onSaving: sayLast,
    onEvaluation: ({ stepsDone, ...evaluation }) => {
      sayLast()
      const entries = Object.entries(evaluationMetrics(evaluation))
      if (entries.length === 0) return
      const values = Object.fromEntries(entries.map(([name, value]) => [name, number(value)]))
      emit({ event: 'metrics', step: stepsDone, values })
    },
    onNote: (text) => emit({ event: 'note', text: text.slice(0, textCharactersMax) }),
    onCheckpoint: ({ stepsDone, folder }) =>
      emit({ event: 'checkpoint', step: stepsDone, folder: `checkpoints/${basename(folder)}` }),
  }
}

/**
 * Says why the trainer ends. Bad data, a bad job file and a loss beyond help come out the same however often they are
 * tried; what others hold (memory, a disk, a device) and what is nobody's fault but ours may go better.
 */
export function reportFailure(path: string | undefined, unixMs: () => number, thrown: unknown): void {
  const error = systemRefusal(thrown) ?? thrown
  if (path === undefined || path === '') return
  // Whoever asked for it knows.
  if (isInterruption(error)) return
  const fix = error instanceof UserError && error.fix !== undefined ? ` ${error.fix}` : ''
  const text = `${messageOf(error)}${fix}`.slice(0, textCharactersMax)
  emitter(path, unixMs)({ event: 'failure', text, final: error instanceof UserError && !error.mayPass })
}

function emitter(path: string, unixMs: () => number): (event: Untimed<ContractEvent>) => void {
  let failed = false
  return (event) => {
    try {
      appendFileSync(path, `${JSON.stringify({ ...event, t: unixMs() })}\n`, { mode: 0o600 })
    } catch (error) {
      // A full disk must not end the training; the log says once that reports are missing.
      if (!failed) note(`Reports cannot be written: ${messageOf(error)}`)
      failed = true
    }
  }
}

/** What only hears; the others are asked for an answer. */
type Listeners = Omit<JobCallbacks, 'decode' | 'plant'>

/** Callbacks that tell two listeners, the first one first. */
export function both(first: Listeners, second: Listeners): Listeners {
  const names = new Set([...Object.keys(first), ...Object.keys(second)] as (keyof Listeners)[])
  return Object.fromEntries(
    [...names].map((name) => [
      name,
      (value: never) => {
        first[name]?.(value)
        second[name]?.(value)
      },
    ]),
  )
}
