import { join } from 'node:path'
import { checkpointNames, newestCheckpoint, restore, stepOf } from './checkpoint.ts'
import type { CheckpointWriter } from './checkpoint-writer.ts'
import type { Standing } from './evaluate/standing.ts'
import type { Parameters } from './parameters.ts'
import { bestFolder } from './resume-checks.ts'
import type { JobResult } from './run-callbacks.ts'
import { diverged, endedBadly, stoppedWithNothing } from './run-refusals.ts'
import type { StepReport, Trainer } from './trainer.ts'

/** What {@link Recovery} needs of a run. */
export interface RecoveryParts {
  /** Where the checkpoints lie. */
  readonly root: string
  readonly parameters: Parameters
  readonly trainer: Trainer
  readonly writer: CheckpointWriter
  readonly standing: Standing
  /** Waits until all processes of the run are here. */
  readonly meet: () => Promise<unknown>
  readonly onNote: ((text: string) => void) | undefined
}

/** What becomes of steps that could not be used: nothing is kept of the weights that they may have spoilt. */
export class Recovery {
  readonly #parts: RecoveryParts
  /** The last step made numbers. What led to one that did not may lie in the weights already: they are not kept. */
  #isGood = true
  /** Steps of the checkpoint that the run went back to, until a step succeeds. */
  #wentBackTo: number | undefined

  constructor(parts: RecoveryParts) {
    this.#parts = parts
  }

  /** Whether the weights may be kept. */
  get isGood(): boolean {
    return this.#isGood
  }

  /** Takes in how a step came out; throws where the run cannot go on. */
  async after(report: StepReport): Promise<void> {
    // A spike says nothing against the weights.
    this.#isGood = Number.isFinite(report.loss) && Number.isFinite(report.gradientNorm)
    if (report.outcome === 'updated') this.#wentBackTo = undefined
    if (report.outcome === 'rolled_back') {
      await this.#goBack(report)
      // The weights are those of a checkpoint again.
      this.#isGood = true
    }
    if (report.outcome === 'stopped') throw diverged(report)
  }

  /**
   * The last step could not be used. Where the one before it could, and the held-out loss is a number, its batch was at
   * fault; throws where the weights may be what makes no number.
   */
  async refuseBadEnd(report: StepReport): Promise<void> {
    const { trainer, standing } = this.#parts
    const heldOut = standing.evaluated === trainer.stepsDone ? standing.loss : undefined
    this.#isGood = trainer.guard.skippedInRow === 1 && (heldOut === undefined || Number.isFinite(heldOut))
    if (!this.#isGood) throw endedBadly(report, (await this.#newest())?.folder)
  }

  /** Asked to stop after a step that could not be used: the next life begins at the newest checkpoint. */
  async stoppedBadly(): Promise<JobResult> {
    const { root, trainer, standing, onNote } = this.#parts
    const newest = await this.#newest()
    if (newest === undefined) throw stoppedWithNothing(trainer.stepsDone)
    onNote?.(
      `Step ${trainer.stepsDone - 1} could not be used, so nothing is kept of the steps since ${newest.folder}.`,
    )
    return {
      outcome: 'stopped',
      ...newest,
      validationLoss: standing.loss,
      best: bestFolder(root, standing.best),
      stoppedEarly: false,
    }
  }

  async #newest(): Promise<{ stepsDone: number; folder: string } | undefined> {
    await this.#written()
    const { root } = this.#parts
    const name = checkpointNames(root).at(-1)
    return name === undefined ? undefined : { stepsDone: stepOf(name), folder: join(root, name) }
  }

  /** Puts the weights of the newest checkpoint back; twice in a row, those of the one before it. */
  async #goBack(report: StepReport): Promise<void> {
    await this.#written()
    const { root, parameters, onNote } = this.#parts
    const before = this.#wentBackTo ?? report.step + 1
    const onDamaged = (folder: string, reason: string) =>
      onNote?.(`The checkpoint ${folder} is damaged (${reason}).`)
    const found = newestCheckpoint(root, onDamaged, before)
    if (found === undefined) throw diverged(report)
    restore(found.folder, parameters)
    this.#wentBackTo = found.state.stepsDone
    onNote?.(
      `Went back to the weights of ${found.folder}; the samples of steps ${found.state.stepsDone} to ${report.step} are left out.`,
    )
  }

  /** Nobody looks for checkpoints before the one who writes has finished. */
  async #written(): Promise<void> {
    await this.#parts.writer.settled()
    await this.#parts.meet()
  }
}
