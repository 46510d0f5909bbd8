/**
 * One optimizer step after another: gradients of a few micro-batches, their length, the learning rate, the
 * update. What happens in step s depends on the weights and on s alone.
 */
import { assert } from '../base/assert.ts'
import { type Clock, systemClock } from '../base/clock.ts'
import { pausesUntil } from '../base/pauses.ts'
import type { Device } from '../runtime/device.ts'
import type { CallTime } from '../runtime/kernels.ts'
import { type Batch, type BatchSource, supervisedCount } from './batch.ts'
import { nextToken } from './methods/objectives.ts'
import type { GraphShape, LearningGraph, Objective } from './objective.ts'
import { AdamW, type AdamWOptions } from './optimizer.ts'
import type { Team } from './parallel/team.ts'
import type { Parameters } from './parameters.ts'
import { learningRateAt, type Schedule } from './schedule.ts'
import { type FaultLimits, faultFields, type GuardState, StepGuard, type Verdict } from './step-guard.ts'
import { stepHash } from './step-hash.ts'

export interface TrainerOptions {
  shape: GraphShape
  /** Micro-batches to one step. */
  accumulate: number
  optimizer: AdamWOptions
  schedule: Schedule
  /** What is made smaller: the loss of the next token by default. */
  objective?: Objective | undefined
  /** Steps that were done before, on a resume. */
  stepsDone?: number
  /** What is done about steps that cannot be used. */
  faults?: FaultLimits
  guard?: GuardState | undefined
  onFault?: (fault: StepFault) => void
  /** The processes that share each step's micro-batches. */
  team?: Team | undefined
  clock?: Clock
}

/** A step that came out wrong, and what was done about it. */
export interface StepFault {
  step: number
  kind: 'not_a_number' | 'spike'
  loss: number
  gradientNorm: number
  usualNorm: number
  action: 'recomputed' | 'skipped' | 'rolled_back' | 'stopped'
  /** Where the samples of the step stand. */
  samples: string[]
}

export interface StepReport {
  /** Counted from 0. */
  step: number
  /** Mean over the step's supervised tokens in nats, or over what else the objective counts, before the update. */
  loss: number
  /** Length of the whole gradient before clipping. */
  gradientNorm: number
  learningRate: number
  tokens: number
  supervisedTokens: number
  /** What the objective says beside its loss. */
  metrics: Readonly<Record<string, number>>
  elapsedMs: number
  /** Of step-hash.ts. */
  hash: string
  /** `rolled_back` asks the owner to put earlier weights in place, `stopped` to give up; nothing was updated. */
  outcome: 'updated' | 'skipped' | 'rolled_back' | 'stopped'
}

interface Measured {
  loss: number
  supervisedTokens: number
  /** By parameter. */
  norms: number[]
  gradientNorm: number
}

/** An evaluation that a stop has ended: the next life does it. */
export class GivenUp extends Error {}

export class Trainer implements Disposable {
  readonly parameters: Parameters
  readonly #batches: BatchSource
  readonly #options: TrainerOptions
  readonly #device: Device
  readonly #objective: Objective
  readonly #graph: LearningGraph
  readonly #optimizer: AdamW
  readonly #clock: Clock
  readonly #guard: StepGuard
  #evaluation: LearningGraph | undefined
  #stepsDone: number

  constructor(parameters: Parameters, device: Device, batches: BatchSource, options: TrainerOptions) {
    this.parameters = parameters
    this.#device = device
    this.#batches = batches
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#guard = new StepGuard(options.faults ?? faultFields.parse({}), options.guard)
    this.#stepsDone = options.stepsDone ?? 0
    this.#objective = options.objective ?? nextToken
    this.#graph = this.#objective.graph(parameters, device, options.shape, 'train')
    this.#optimizer = new AdamW(parameters, device, options.optimizer)
  }

  get stepsDone(): number {
    return this.#stepsDone
  }

  /** Bytes that the graphs need between inputs and outputs, activations included. */
  get scratchBytes(): number {
    return this.#graph.scratchBytes + (this.#evaluation?.scratchBytes ?? 0)
  }

  /** What each of our ops in a step has taken so far, where those bring their own threads; no step may be running. */
  opTimes(): CallTime[] {
    return [...(this.#graph.opTimes?.() ?? []), ...this.#optimizer.opTimes()]
  }

  async step(): Promise<StepReport> {
    const startedMs = this.#clock.nowMs()
    const step = this.#stepsDone
    const { accumulate } = this.#options
    const prepared = await this.#batches.prepare?.(step)
    const batches = Array.from({ length: accumulate }, (_, i) => this.#batches.at(step * accumulate + i))
    const { measured, verdict } = await this.#measureWell(step, batches)
    const { loss, supervisedTokens, norms, gradientNorm } = measured
    const learningRate = learningRateAt(this.#options.schedule, step)
    const outcome = verdict === 'good' ? 'updated' : this.#guard.refuse()
    if (verdict === 'good') {
      await this.#optimizer.update(step, learningRate, gradientNorm)
      await this.#options.team?.shareWeights()
      this.#guard.accept(gradientNorm)
    } else {
      this.parameters.clearGradients()
      this.#report(step, verdict, measured, outcome as StepFault['action'])
    }
    this.#stepsDone++
    const tokens = batches.reduce((sum, batch) => sum + batch.ids.length, 0)
    const elapsedMs = this.#clock.nowMs() - startedMs
    const metrics = { ...prepared, ...this.#graph.takeMetrics?.() }
    const hash = stepHash(batches, loss, norms)
    const counts = { tokens, supervisedTokens }
    return { step, loss, gradientNorm, learningRate, ...counts, metrics, elapsedMs, hash, outcome }
  }

  /** What a checkpoint has to remember of the guard. */
  get guard(): GuardState {
    return this.#guard.state
  }

  /** A step that cannot be used is computed again: a fault of the machine does not come twice. */
  async #measureWell(
    step: number,
    batches: readonly Batch[],
  ): Promise<{ measured: Measured; verdict: Verdict }> {
    const first = await this.#measure(batches)
    const verdict = this.#guard.judge(first.loss, first.gradientNorm)
    if (verdict === 'good') return { measured: first, verdict }
    this.parameters.clearGradients()
    const measured = await this.#measure(batches)
    const again = this.#guard.judge(measured.loss, measured.gradientNorm)
    if (again === 'good') this.#report(step, verdict, first, 'recomputed')
    return { measured, verdict: again }
  }

  async #measure(batches: readonly Batch[]): Promise<Measured> {
    const { loss, supervisedTokens } = await this.#gradients(batches)
    const norms = await this.#optimizer.gradientNorms()
    return { loss, supervisedTokens, norms, gradientNorm: Math.hypot(...norms) }
  }

  #report(step: number, kind: StepFault['kind'], measured: Measured, action: StepFault['action']): void {
    const { loss, gradientNorm } = measured
    const { usualNorm } = this.#guard.state
    const samples = this.samplesOf(step)
    this.#options.onFault?.({ step, kind, loss, gradientNorm, usualNorm, action, samples })
  }

  /** Where the samples of a step stand, as far as its source knows. */
  samplesOf(step: number): string[] {
    const { accumulate } = this.#options
    const numbers = Array.from({ length: accumulate }, (_, i) => step * accumulate + i)
    return numbers.flatMap((number) => this.#batches.samplesAt?.(number) ?? [`micro-batch ${number}`])
  }

  /** Every micro-batch weighs by its share of what the step counts: 1 x 8 equals 8 x 1. */
  async #gradients(batches: readonly Batch[]): Promise<{ loss: number; supervisedTokens: number }> {
    const supervisedTokens = batches.reduce((sum, batch) => sum + supervisedCount(batch), 0)
    assert(supervisedTokens > 0, 'a step has at least one token to learn')
    const parts = batches.reduce((sum, batch) => sum + this.#objective.count(batch), 0)
    let loss = 0
    await this.#graph.prepare?.(batches)
    const { team } = this.#options
    if (team !== undefined) loss = await team.sum(batches, (batch) => this.#graph.run(batch, 1 / parts))
    else for (const batch of batches) loss += await this.#graph.run(batch, 1 / parts)
    return { loss, supervisedTokens }
  }

  /** Length of each parameter's gradient at the current weights, by name; nothing is updated. */
  async gradientNorms(): Promise<Map<string, number>> {
    const { accumulate } = this.#options
    const first = this.#stepsDone * accumulate
    await this.#batches.prepare?.(this.#stepsDone)
    await this.#gradients(Array.from({ length: accumulate }, (_, i) => this.#batches.at(first + i)))
    const norms = await this.#optimizer.gradientNorms()
    this.parameters.clearGradients()
    return new Map(this.parameters.all.map(({ spec }, i) => [spec.name, norms[i]!]))
  }

  /**
   * Mean loss over the first `count` batches of `source`; of tokens, in nats. Processes of a team take turns at the
   * batches, and every one adds the same numbers in the same order. Throws GivenUp in all of them once `signal` is
   * aborted in any, which is heard between two batches.
   */
  async evaluate(source: BatchSource, count: number, signal?: AbortSignal): Promise<number> {
    this.#evaluation ??= this.#objective.graph(this.parameters, this.#device, this.#options.shape, 'evaluate')
    const { team } = this.#options
    const losses = new Float64Array(count)
    const tokens = new Float64Array(count)
    // It does not end the work: processes of a team give up together.
    const hearing = pausesUntil(undefined, () => new GivenUp())
    for (let i = team?.rank ?? 0; i < count && signal?.aborted !== true; i += team?.size ?? 1) {
      const batch = source.at(i)
      losses[i] = await this.#evaluation.run(batch, 1)
      tokens[i] = this.#objective.count(batch)
      await hearing()
    }
    await this.giveUpIf(signal)
    for (const values of [losses, tokens]) await team?.share(values)
    const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0)
    return sum(losses) / sum(tokens)
  }

  /** Throws GivenUp in every process of the team once `signal` is aborted in one; all of them ask. */
  async giveUpIf(signal: AbortSignal | undefined): Promise<void> {
    if (signal === undefined) return
    const { team } = this.#options
    if (team === undefined ? signal.aborted : await team.any(signal.aborted)) throw new GivenUp()
  }

  dispose(): void {
    this.#graph.dispose()
    this.#evaluation?.dispose()
    this.#optimizer.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
