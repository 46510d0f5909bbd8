/** All that is found out about a job before it starts. */
import { preparing } from '../data/preparing.ts'
import type { TrainingJob } from '../job.ts'
import { inspectedData } from '../prepare-data.ts'
import { refuseUnfit } from '../prepare-model.ts'
import { type DataCheck, dataCheckOf } from './data-check.ts'
import { dataShapeOf, type Needs, needsOf } from './needs.ts'
import { measurePace, type Pace } from './pace.ts'

export interface JobCheck {
  data: DataCheck
  needs: Needs
  pace: Pace
}

/** What is wrong with the data is among the results. Throws UserErrors for a model that does not fit the job. */
export async function checkJob(job: TrainingJob, onNote: (text: string) => void): Promise<JobCheck> {
  const endless = preparing(onNote)
  using data = await inspectedData(job, endless)
  refuseUnfit(job, data.kit.tokenizer)
  const check = await dataCheckOf(job, data.kit, data.material, endless)
  const needs = needsOf(job, data)
  onNote('Measuring a few steps.')
  return { data: check, needs, pace: await measurePace(job, dataShapeOf(data)) }
}
