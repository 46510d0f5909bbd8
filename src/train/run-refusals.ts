/** Why a run cannot go on: processes that do not belong together, a loss beyond help; and a step that differs. */
import { UserError } from '../base/errors.ts'
import type { TrainingJob } from './job.ts'
import type { LedgerEntry } from './ledger.ts'
import { checkTeam } from './parallel/team.ts'
import type { StepReport } from './trainer.ts'

/** Processes that know nothing of one another would write the same files. */
export function refuseUnshared(job: TrainingJob, processes: number): void {
  checkTeam(processes, job.accumulate)
  if (job.data_parallel) return
  throw new UserError(
    `The job was started as ${processes} processes, and does not say data_parallel: true.`,
    {
      failure: 'usage',
      fix: 'Set it in the job file (a run that has begun without it cannot change), or start one process.',
    },
  )
}

export function diverged({ step, loss, gradientNorm }: StepReport): UserError {
  return new UserError(
    `Training diverged in step ${step}: the loss is ${loss} and the gradient's length ${gradientNorm}, and passing over steps and going back did not help.`,
    {
      fix: 'Lower the learning rate or lengthen the warm-up, and begin anew, or from a checkpoint (model: {from: FOLDER}).',
    },
  )
}

/** `folder` is the newest checkpoint. */
export function endedBadly({ step, loss, gradientNorm }: StepReport, folder: string | undefined): UserError {
  const kept = folder === undefined ? 'nothing was kept' : `the newest checkpoint is ${folder}`
  return new UserError(
    `Training diverged: its last step, ${step}, could not be used (loss ${loss}, gradient's length ${gradientNorm}), so what it ended with is not kept; ${kept}.`,
    {
      fix: 'Lower the learning rate or lengthen the warm-up, and begin anew, or from a checkpoint (model: {from: FOLDER}).',
    },
  )
}

export function stoppedWithNothing(stepsDone: number): UserError {
  return new UserError(
    `Stopped after step ${stepsDone}, which could not be used and was not saved; there is no checkpoint yet.`,
    { failure: 'interrupted', fix: 'The same command begins anew.' },
  )
}

export function unequal(earlier: LedgerEntry, { step, loss, hash }: StepReport): string {
  return (
    `Step ${step} came out otherwise than before (loss ${loss} instead of ${earlier.loss}, hash ${hash.slice(0, 12)} ` +
    `instead of ${earlier.hash.slice(0, 12)}): another kind of processor, another build, or faulty memory.`
  )
}
