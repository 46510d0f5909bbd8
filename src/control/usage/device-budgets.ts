import { Refused } from '../../api/control/problem.ts'
import { dayOf } from '../gateway/usage-sums.ts'
import type { Store } from '../store/store.ts'
import { usageTables } from './tables.ts'
import { usageOf } from './usage.ts'

/**
 * Refuses what would take devices when the project has used up its budget of device-hours, or of cost, for tokens and
 * devices together. What runs goes on.
 */
export async function checkDeviceBudgets(store: Store, project: string): Promise<void> {
  const budgets = await usageTables(store)
    .selectFrom('budgets')
    .selectAll()
    .where('project_id', '=', project)
    .where('key_id', 'is', null)
    .where((is) => is.or([is('device_hours', 'is not', null), is('cost', 'is not', null)]))
    .execute()
  const today = dayOf(store.clock.unixMs())
  for (const { per, cost, device_hours } of budgets) {
    const from = per === 'day' ? today : `${today.slice(0, '2026-11'.length)}-01`
    const used = await usageOf(store, { project, from, to: today, by: [] })
    const hours = used.devices.reduce((sum, row) => sum + row.hours, 0)
    if (device_hours !== null && hours >= device_hours)
      throw exhausted(`${device_hours} device-hours a ${per}: ${hours.toFixed(1)} are used`, per)
    if (cost !== null && used.cost >= cost)
      throw exhausted(`${cost} a ${per} (at the prices set): ${used.cost.toFixed(2)} are spent`, per)
  }
}

function exhausted(budget: string, per: 'day' | 'month'): Refused {
  return new Refused('budget_exhausted', `The project has used up its budget of ${budget}.`, {
    fix: `Wait for the next ${per} (UTC), or have the budget raised.`,
  })
}
