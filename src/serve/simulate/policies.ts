import { PublishedScheduler } from '../baselines/published.ts'
import { RequestLevelScheduler } from '../baselines/request-level.ts'
import type { ExecutorShape } from '../executor.ts'
import type { SchedulerOptions } from '../options.ts'
import { Scheduler } from '../scheduler.ts'

/** How a device is shared between requests. */
export type Policy =
  | { name: 'static'; batchMax: number; microBatchMax?: number; prompts?: 'padded' | 'shortest' }
  | { name: 'timeout'; batchMax: number; timeoutMs: number }
  | { name: 'published'; batchMax: number }
  | { name: 'ours'; options?: Partial<SchedulerOptions> }

export type PolicyName = Policy['name']

/** What people read in tables and legends. */
export const policyTitles: { readonly [Name in PolicyName]: string } = {
  static: 'request-level, static batches',
  timeout: 'request-level, time-out',
  published: 'iteration-level, as published',
  ours: 'Ropeway',
}

/** The scheduler of `policy` for a device that takes one iteration at a time. */
export function schedulerOf(policy: Policy, shape: ExecutorShape, stages = 1): Scheduler {
  switch (policy.name) {
    case 'static':
      return new RequestLevelScheduler(shape, {
        batchMax: policy.batchMax,
        ...(policy.microBatchMax !== undefined && { microBatchMax: policy.microBatchMax }),
        ...(policy.prompts !== undefined && { prompts: policy.prompts }),
      })
    case 'timeout':
      return new RequestLevelScheduler(shape, { batchMax: policy.batchMax, timeoutMs: policy.timeoutMs })
    case 'published':
      return new PublishedScheduler(shape, { batchMax: policy.batchMax, inFlightMax: stages })
    case 'ours':
      return new Scheduler(shape, policy.options)
  }
}

/**
 * The schedulers that share a pipeline of `stages`. Ours has one iteration in flight, so each stage has one
 * of its own with a part of the cache; the baselines keep several in flight by themselves.
 */
export function schedulersOf(policy: Policy, shape: ExecutorShape, stages: number): Scheduler[] {
  if (policy.name !== 'ours') return [schedulerOf(policy, shape, stages)]
  const part = { ...shape, blockCount: Math.floor(shape.blockCount / stages) }
  return Array.from({ length: stages }, () => schedulerOf(policy, part))
}
