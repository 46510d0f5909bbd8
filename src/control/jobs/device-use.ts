import type { Store } from '../store/store.ts'
import { addDeviceTime } from '../usage/device-time.ts'
import type { JobRow } from './rows.ts'

/** Time on devices is counted so often while a job has them, and when it gives them back. */
export const countEveryMs = 60_000

/**
 * Counts the time since it was counted last. In the transaction that writes down, by compare-and-set, that it was
 * counted or that the devices are given back.
 */
export async function countDevices(store: Store, row: JobRow, nowMs: number): Promise<void> {
  const { id, name, project_id, device_type, devices, status, since } = row
  await addDeviceTime(store, {
    ...{ project: project_id, subject: id, name, device: device_type, devices },
    // Given its devices by a version that did not count yet.
    ...{ fromMs: status.countedMs ?? since, toMs: nowMs },
  })
}
