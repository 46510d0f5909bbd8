/** Whether a run may go on from a checkpoint that is there. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import type { Pause } from '../base/pauses.ts'
import { type FoundCheckpoint, stepFolderName, type TrainerState } from './checkpoint.ts'
import { differences, recipeOf, type TrainingJob } from './job.ts'
import { awaitedBaseModel, type BaseModel } from './prepare-model.ts'

export function refuseOtherRecipe(job: TrainingJob, found: FoundCheckpoint): void {
  const changed = differences(found.state.recipe, JSON.parse(JSON.stringify(recipeOf(job))))
  if (changed.length === 0) return
  const { schedule } = found.state.recipe as Pick<TrainingJob, 'schedule'>
  const longer =
    changed.join() === 'schedule.decay_steps'
      ? ` A file that names none means its steps: to train that run longer, at the rate at which it ended, add schedule: {decay_steps: ${schedule.decay_steps}}.`
      : ''
  throw new UserError(`${job.out} holds a run with other settings: ${changed.join(', ')} changed since.`, {
    failure: 'conflict',
    fix: `Set them back to go on with that run, or choose another out folder for a new one.${longer}`,
  })
}

export function refuseOtherData(found: FoundCheckpoint): never {
  throw new UserError(`The data changed since ${found.folder} was saved.`, {
    failure: 'conflict',
    fix: 'Restore it to go on with that run, or choose another out folder for a new one.',
  })
}

/** The model that stays as it is while an adapter is trained: the same in every life of the job. */
export async function frozenBase(
  job: TrainingJob,
  found: FoundCheckpoint | undefined,
  pause: Pause,
): Promise<BaseModel | undefined> {
  if (job.method?.lora === undefined || !('from' in job.model)) return undefined
  const base = await awaitedBaseModel(job.model.from, pause)
  if (found !== undefined && found.state.base?.sha256 !== base.sha256) {
    throw new UserError(`The model in ${base.path} is not the one that ${found.folder} was trained on.`, {
      failure: 'conflict',
      fix: 'Put that model back to go on with the run, or choose another out folder for a new one.',
    })
  }
  return base
}

/** The best evaluation is so old that the job is to end. */
export function isStale(
  { evaluate }: TrainingJob,
  { stepsDone, best }: Pick<TrainerState, 'stepsDone' | 'best'>,
): boolean {
  if (evaluate.patience === undefined || best === undefined) return false
  return stepsDone - best.step >= evaluate.patience * evaluate.every
}

export function bestFolder(
  root: string,
  best: TrainerState['best'],
): { stepsDone: number; folder: string } | undefined {
  if (best === undefined) return undefined
  const folder = join(root, stepFolderName(best.step))
  return existsSync(folder) ? { stepsDone: best.step, folder } : undefined
}
