/** What a job's programs measured, as it is kept. */
import type { MetricPoint } from '../../api/control/jobs.ts'
import type { Store } from '../store/store.ts'
import type { JobTables } from './rows.ts'

export interface MetricSummary {
  name: string
  points: number
  first_step: number
  last_step: number
}

export async function listMetrics(store: Store, job: string): Promise<MetricSummary[]> {
  return await store
    .db<JobTables>()
    .selectFrom('job_metrics')
    .select('name')
    .select(({ fn }) => [
      fn.countAll<number>().as('points'),
      fn.min<number>('step').as('first_step'),
      fn.max<number>('step').as('last_step'),
    ])
    .where('job_id', '=', job)
    .groupBy('name')
    .orderBy('name')
    .execute()
}

/** At most `limit` points behind step `after`, ascending. */
export async function readMetric(
  store: Store,
  job: string,
  name: string,
  after: number,
  limit: number,
): Promise<MetricPoint[]> {
  const rows = await store
    .db<JobTables>()
    .selectFrom('job_metrics')
    .selectAll()
    .where('job_id', '=', job)
    .where('name', '=', name)
    .where('step', '>', after)
    .orderBy('step')
    .limit(limit)
    .execute()
  return rows.map(({ step, at, value, text }) => ({ step, at, value: value ?? text ?? 'NaN' }))
}
