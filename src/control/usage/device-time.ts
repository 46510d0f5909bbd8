import { dayOf } from '../gateway/usage-sums.ts'
import type { Store } from '../store/store.ts'
import { usageTables } from './tables.ts'

const dayMs = 86_400_000

export interface DeviceTime {
  readonly project: string
  /** The job or deployment that had the devices. */
  readonly subject: string
  readonly name: string
  readonly device: string
  readonly devices: number
  /** Unix milliseconds. */
  readonly fromMs: number
  readonly toMs: number
}

/**
 * Counts time on devices. Call it in the transaction that writes down until when was counted, under compare-and-set:
 * then no time counts twice and none is lost.
 */
export async function addDeviceTime(store: Store, time: DeviceTime): Promise<void> {
  const { project, subject, name, device, devices, fromMs, toMs } = time
  for (let from = fromMs; from < toMs; ) {
    const to = Math.min(toMs, (Math.floor(from / dayMs) + 1) * dayMs)
    const row = { project_id: project, day: dayOf(from), subject_id: subject, name, device }
    await usageTables(store)
      .insertInto('usage_devices')
      .values({ ...row, device_ms: Math.round((to - from) * devices) })
      .onConflict((conflict) =>
        conflict.columns(['project_id', 'day', 'subject_id', 'device']).doUpdateSet((is) => ({
          name,
          device_ms: is('usage_devices.device_ms', '+', is.ref('excluded.device_ms')),
        })),
      )
      .execute()
    from = to
  }
}
