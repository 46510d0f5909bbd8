/** A job's data, by what its method learns from: texts and records, preferences, or prompts. */
import type { Preparing } from './data/preparing.ts'
import type { TrainingJob } from './job.ts'
import { type JobData, prepareData } from './job-data.ts'
import { policyOf, preferenceOf } from './methods/method.ts'
import { preparePreferences } from './methods/preference-data.ts'
import { preparePrompts } from './rollouts/prompt-data.ts'

/** To be looked at: what cannot be learned from is left out and stands in the reports. */
export async function inspectedData(job: TrainingJob, preparing: Preparing): Promise<JobData> {
  const policy = policyOf(job.method)
  if (policy !== undefined) return await preparePrompts(job, policy, undefined, preparing, false)
  const preference = preferenceOf(job.method)
  return preference === undefined
    ? await prepareData(job, undefined, preparing, false)
    : await preparePreferences(job, preference, undefined, preparing, false)
}
