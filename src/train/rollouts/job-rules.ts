/** What a job that learns from rewards must say, and what has no meaning for it. */
import { refused } from '../job-refusals.ts'
import type { Method } from '../methods/method.ts'
import type { Reward } from './reward-fields.ts'
import { checkGraders } from './rewards.ts'

interface Asked {
  method?: Method | undefined
  rewards?: readonly Reward[] | undefined
  batch: number
  accumulate: number
  context: number
  steps: number
  evaluate: { every: number }
  checkpoint: { every: number }
  data: object
}

/** Throws UserErrors that name fields. */
export function checkRewards(job: Asked): void {
  const policy = job.method?.grpo
  if (policy === undefined) {
    if (job.rewards !== undefined) throw refused('rewards', 'grades answers: it takes method.grpo')
    return
  }
  if (job.rewards === undefined) {
    throw refused(
      'rewards',
      'is missing: method.grpo learns from them',
      'For example rewards: [{name: answer, kind: exact}], or kind: regex with a pattern, kind: json_schema with a schema, kind: program with run: [python3, grade.py].',
    )
  }
  // What cannot grade is said before anything is read.
  checkGraders(job.rewards)
  if (!('train' in job.data))
    throw refused('data', 'has texts, and method.grpo asks prompts: give data.train')
  const sources: unknown[] = [job.data.train].flat()
  if (sources.some((one) => typeof one === 'object' && one !== null && 'weight' in one))
    throw refused('data.train', 'has weights, and method.grpo asks every prompt equally often')
  const rows = job.batch * job.accumulate
  if (rows % policy.group !== 0) {
    throw refused(
      'method.grpo.group',
      `must divide the ${rows} answers of a step (batch times accumulate); ${policy.group} does not`,
    )
  }
  if (policy.tokens_max >= job.context)
    throw refused('method.grpo.tokens_max', `leaves no room for a prompt in a context of ${job.context}`)
  checkUpdates(job, policy.updates)
}

/** Steps that share answers are done in one go: whoever goes on begins with new ones. */
function checkUpdates({ steps, evaluate, checkpoint }: Asked, updates: number): void {
  const counts = { steps, 'evaluate.every': evaluate.every, 'checkpoint.every': checkpoint.every }
  for (const [field, count] of Object.entries(counts)) {
    if (count % updates === 0) continue
    throw refused(field, `must be a multiple of method.grpo.updates (${updates}); ${count} is not`)
  }
}
