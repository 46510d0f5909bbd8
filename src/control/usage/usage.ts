import type {
  BudgetInput,
  BudgetView,
  DevicePrice,
  DevicesUsage,
  Prices,
  TokensUsage,
  UsageView,
  usageGroups,
} from '../../api/control/usage.ts'
import { UserError } from '../../base/errors.ts'
import { costOf, type Price, priceOf } from '../gateway/budgets.ts'
import { addTo, noTokens } from '../gateway/usage-sums.ts'
import type { Store } from '../store/store.ts'
import { usageTables } from './tables.ts'

export interface UsageQuery {
  readonly project: string
  /** Inclusive, UTC. */
  readonly from: string
  readonly to: string
  readonly key?: string
  readonly model?: string
  /** By what tokens are told apart; all are one sum without any. */
  readonly by: readonly (typeof usageGroups)[number][]
}

const hourMs = 3_600_000
/** Days of one question. */
const daysMax = 400
const budgetsMax = 1000

/** What a project has used and what that costs at the prices of today. Throws UserError for too long a time. */
export async function usageOf(store: Store, query: UsageQuery): Promise<UsageView> {
  const days = (Date.parse(query.to) - Date.parse(query.from)) / 86_400_000
  if (!(days >= 0 && days < daysMax)) {
    throw new UserError(`Usage is told for 1 to ${daysMax} days, not from ${query.from} to ${query.to}.`, {
      failure: 'usage',
    })
  }
  const known = await pricesOf(store)
  const [tokens, devices] = [
    await tokensOf(store, query, known.models),
    await devicesOf(store, query, known.devices),
  ]
  const cost = [...tokens, ...devices].reduce((sum, row) => sum + row.cost, 0)
  return { tokens, devices, cost }
}

async function tokensOf(store: Store, query: UsageQuery, known: readonly Price[]): Promise<TokensUsage[]> {
  const { project, from, to, key, model, by } = query
  let rows = usageTables(store)
    .selectFrom('usage_tokens')
    .selectAll()
    .where('project_id', '=', project)
    .where('day', '>=', from)
    .where('day', '<=', to)
  if (key !== undefined) rows = rows.where('key_id', '=', key)
  if (model !== undefined) rows = rows.where('model', '=', model)
  const sums = new Map<string, { -readonly [Field in keyof TokensUsage]: TokensUsage[Field] }>()
  for (const { day, key_id, model, ...row } of await rows.execute()) {
    const all = { day, key: key_id, model }
    const told = Object.fromEntries(by.map((name) => [name, all[name]]))
    const id = JSON.stringify(by.map((name) => all[name]))
    let sum = sums.get(id)
    if (sum === undefined) sums.set(id, (sum = { ...told, ...noTokens, cost: 0 }))
    addTo(sum, row)
    sum.cost += costOf(row, priceOf(known, model))
  }
  return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum)
}

async function devicesOf(
  store: Store,
  { project, from, to }: UsageQuery,
  known: readonly DevicePrice[],
): Promise<DevicesUsage[]> {
  const rows = await usageTables(store)
    .selectFrom('usage_devices')
    .selectAll()
    .where('project_id', '=', project)
    .where('day', '>=', from)
    .where('day', '<=', to)
    .orderBy('day')
    .orderBy('subject_id')
    .execute()
  return rows.map(({ day, subject_id, name, device, device_ms }) => {
    const price = known.find((one) => one.device === device) ?? known.find((one) => one.device === '*')
    const hours = device_ms / hourMs
    return { day, subject: subject_id, name, device, hours, cost: hours * (price?.perHour ?? 0) }
  })
}

export async function pricesOf(store: Store): Promise<{ models: Price[]; devices: DevicePrice[] }> {
  const rows = await usageTables(store).selectFrom('prices').selectAll().orderBy('id').execute()
  return {
    models: rows.flatMap(({ price_json }) => ('model' in price_json ? [price_json] : [])),
    devices: rows.flatMap(({ price_json }) => ('device' in price_json ? [price_json] : [])),
  }
}

/** All prices at once: what is not among them has none. */
export async function setPrices(store: Store, { models, devices }: Prices): Promise<void> {
  const rows = [
    ...models.map(({ cachedPerMillion, ...price }) => ({
      id: `model ${price.model}`,
      price_json: { ...price, ...(cachedPerMillion !== undefined && { cachedPerMillion }) },
    })),
    ...devices.map((price) => ({ id: `device ${price.device}`, price_json: price })),
  ]
  const twice = rows.find(({ id }, index) => rows.findIndex((one) => one.id === id) !== index)
  if (twice !== undefined)
    throw new UserError(`There are two prices for the ${twice.id}.`, { failure: 'usage' })
  await store.transaction(async () => {
    await usageTables(store).deleteFrom('prices').execute()
    for (const row of rows) await usageTables(store).insertInto('prices').values(row).execute()
  })
}

export async function budgetsOf(store: Store, project: string): Promise<BudgetView[]> {
  const rows = await usageTables(store)
    .selectFrom('budgets')
    .selectAll()
    .where('project_id', '=', project)
    .orderBy('id')
    .limit(budgetsMax)
    .execute()
  return rows.map(({ id, key_id, per, tokens, cost, device_hours }) => ({
    ...{ id, key: key_id, per, tokens, cost, device_hours },
  }))
}

/** The same again replaces what was: one budget for each holder and period. */
export async function setBudget(store: Store, project: string, input: BudgetInput): Promise<BudgetView> {
  const { key, per, tokens = null, cost = null, device_hours = null } = input
  const row = { project_id: project, key_id: key ?? null, per, tokens, cost, device_hours }
  return await store.transaction(async () => {
    const all = await budgetsOf(store, project)
    const same = all.find((one) => one.key === row.key_id && one.per === per)
    if (same === undefined && all.length >= budgetsMax)
      throw new UserError(`A project has at most ${budgetsMax} budgets.`, { failure: 'conflict' })
    const id = same?.id ?? store.ids.next('bud')
    await usageTables(store).deleteFrom('budgets').where('id', '=', id).execute()
    await usageTables(store)
      .insertInto('budgets')
      .values({ id, ...row })
      .execute()
    return { id, key: row.key_id, per, tokens, cost, device_hours }
  })
}

export async function deleteBudget(store: Store, project: string, id: string): Promise<void> {
  const { numDeletedRows } = await usageTables(store)
    .deleteFrom('budgets')
    .where('id', '=', id)
    .where('project_id', '=', project)
    .executeTakeFirstOrThrow()
  if (numDeletedRows === 0n) throw new UserError(`There is no budget ${id}.`, { failure: 'not_found' })
}
