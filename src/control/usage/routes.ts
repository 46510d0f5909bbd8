import { Refused } from '../../api/control/problem.ts'
import {
  listBudgets,
  putBudget,
  removeBudget,
  replacePrices,
  showPrices,
  showUsage,
  type usageGroups,
} from '../../api/control/usage.ts'
import { dayOf } from '../gateway/usage-sums.ts'
import { keyById } from '../keys/keys.ts'
import type { Actor, ProjectSeen } from '../service/actor.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Store } from '../store/store.ts'
import { budgetsOf, deleteBudget, pricesOf, setBudget, setPrices, usageOf } from './usage.ts'

/** `changed` is called when prices or budgets are others than before. */
export const usageRoutes =
  (changed: () => void): RouteModule =>
  (serve, { store }) => {
    serve(showUsage, async ({ project, query }) => {
      const { key, model, by } = query
      const today = dayOf(store.clock.unixMs())
      return await usageOf(store, {
        project: project.id,
        from: query.from ?? `${today.slice(0, '2026-11'.length)}-01`,
        to: query.to ?? today,
        ...(key !== undefined && { key }),
        ...(model !== undefined && { model }),
        by: [...new Set(by.split(','))] as (typeof usageGroups)[number][],
      })
    })
    serve(showPrices, async () => await pricesOf(store))
    serve(replacePrices, async ({ body, audit }) => {
      await store.transaction(async () => {
        await setPrices(store, body)
        await audit('prices.set', 'prices', { models: body.models.length, devices: body.devices.length })
        store.afterCommit(changed)
      })
      return await pricesOf(store)
    })
    serve(listBudgets, async ({ project }) => ({ items: await budgetsOf(store, project.id) }))
    serve(putBudget, async ({ project, actor, body, audit }) =>
      store.transaction(async () => {
        refuseOwn(actor, body.key)
        if (body.key !== undefined) await refuseUnknown(store, project, body.key)
        const budget = await setBudget(store, project.id, body)
        await audit('budget.set', budget.id, { ...body })
        store.afterCommit(changed)
        return budget
      }),
    )
    serve(removeBudget, async ({ project, params, actor, audit }) => {
      await store.transaction(async () => {
        const budget = (await budgetsOf(store, project.id)).find(({ id }) => id === params.budget)
        refuseOwn(actor, budget?.key)
        await deleteBudget(store, project.id, params.budget)
        await audit('budget.delete', params.budget)
        store.afterCommit(changed)
      })
    })
  }

function refuseOwn(actor: Actor, key: string | null | undefined): void {
  if (key === actor.id) throw new Refused('forbidden', 'A key does not change its own budget.')
}

/** A misspelt one would be bound by nothing. */
async function refuseUnknown(store: Store, project: ProjectSeen, key: string): Promise<void> {
  const row = await keyById(store, key)
  if (row?.project_id === project.id && row.revoked_at === null) return
  throw new Refused('not_found', `${project.name} has no key with the id ${key}.`, {
    param: 'key',
    fix: 'ropeway key lists them with their ids.',
  })
}
