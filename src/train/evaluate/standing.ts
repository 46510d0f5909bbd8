import type { TrainerState } from '../checkpoint.ts'
import type { TrainingJob } from '../job.ts'
import { isStale } from '../resume-checks.ts'
import type { Evaluation } from './evaluations.ts'

/** What the evaluations of a run have said so far, and which one is due. */
export class Standing {
  readonly #job: TrainingJob
  #best: TrainerState['best']
  #evaluated: number | undefined
  #loss: number | undefined

  constructor(job: TrainingJob, state: Pick<TrainerState, 'best' | 'evaluated'> | undefined) {
    this.#job = job
    this.#best = state?.best
    this.#evaluated = state?.evaluated
  }

  get best(): TrainerState['best'] {
    return this.#best
  }

  /** The step after which was evaluated last. */
  get evaluated(): number | undefined {
    return this.#evaluated
  }

  /** Of the last evaluation of this life, where something is held out. */
  get loss(): number | undefined {
    return this.#loss
  }

  /** Batches that are to be measured after this step; undefined when none are. */
  due(stepsDone: number): number | undefined {
    const { steps, evaluate, model } = this.#job
    // A model that was there before is measured first: what training has to beat.
    const isDue = stepsDone > 0 || 'from' in model
    if (!isDue || this.#evaluated === stepsDone) return undefined
    if (stepsDone === steps) return evaluate.final_batches ?? evaluate.batches
    return stepsDone % evaluate.every === 0 ? evaluate.batches : undefined
  }

  /** Whether it is the best so far by its `measure`, less being better. What is not kept is not the best. */
  take({ stepsDone, loss }: Evaluation, measure: number | undefined, isKept: boolean): boolean {
    this.#loss = loss
    this.#evaluated = stepsDone
    if (!isKept || measure === undefined || !Number.isFinite(measure)) return false
    if (this.#best !== undefined && measure >= this.#best.loss) return false
    this.#best = { step: stepsDone, loss: measure }
    return true
  }

  isStale(stepsDone: number): boolean {
    return isStale(this.#job, { stepsDone, best: this.#best })
  }
}
