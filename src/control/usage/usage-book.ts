import type { Budget, Price } from '../gateway/budgets.ts'
import type { Ledger } from '../gateway/ledger.ts'
import { dayOf, type UsageRow, UsageSums } from '../gateway/usage-sums.ts'
import type { Store } from '../store/store.ts'
import { usageTables } from './tables.ts'

/** Rows of one write. */
const rowsMax = 100

/**
 * Brings a gateway's sums into the database, and what the gateway needs from there: prices, budgets, and what was used
 * at the gateways of other servers.
 *
 * Each ledger writes its own sums whole, over what it wrote before: a write that is done twice counts once.
 */
export class UsageBook {
  readonly #store: Store
  readonly #ledger: Ledger
  readonly #written = new Map<string, string>()
  #prices: readonly Price[] = []
  #budgets: readonly Budget[] = []
  #elsewhere = new UsageSums()
  #syncing: Promise<void> | undefined

  constructor(store: Store, ledger: Ledger) {
    this.#store = store
    this.#ledger = ledger
  }

  get prices(): readonly Price[] {
    return this.#prices
  }

  get budgets(): readonly Budget[] {
    return this.#budgets
  }

  /** This month at other gateways, as of the last {@link sync}. */
  get elsewhere(): UsageSums {
    return this.#elsewhere
  }

  /** Writes what has changed and reads what others have. One at a time. */
  async sync(): Promise<void> {
    this.#syncing ??= this.#sync().finally(() => {
      this.#syncing = undefined
    })
    await this.#syncing
  }

  async #sync(): Promise<void> {
    const changed = this.#ledger.sums
      .rows()
      .map((row) => ({
        row,
        id: JSON.stringify([row.day, row.project, row.key, row.model]),
        text: JSON.stringify(row),
      }))
      .filter(({ id, text }) => this.#written.get(id) !== text)
    for (let from = 0; from < changed.length; from += rowsMax) {
      const some = changed.slice(from, from + rowsMax)
      await this.#write(some.map(({ row }) => row))
      for (const { id, text } of some) this.#written.set(id, text)
    }
    await this.#read()
  }

  async #write(rows: readonly UsageRow[]): Promise<void> {
    const values = rows.map(({ project, key, ...row }) => ({
      ...{ ledger: this.#ledger.id, project_id: project, key_id: key },
      ...row,
    }))
    await usageTables(this.#store)
      .insertInto('usage_tokens')
      .values(values)
      .onConflict((conflict) =>
        conflict.columns(['ledger', 'day', 'project_id', 'key_id', 'model']).doUpdateSet((is) => ({
          requests: is.ref('excluded.requests'),
          prompt: is.ref('excluded.prompt'),
          cached: is.ref('excluded.cached'),
          output: is.ref('excluded.output'),
        })),
      )
      .execute()
  }

  async #read(): Promise<void> {
    const db = usageTables(this.#store)
    const month = dayOf(this.#store.clock.unixMs()).slice(0, '2026-11'.length)
    const prices = await db.selectFrom('prices').selectAll().execute()
    const budgets = await db.selectFrom('budgets').selectAll().execute()
    const others = await db
      .selectFrom('usage_tokens')
      .selectAll()
      .where('day', '>=', `${month}-01`)
      .where('ledger', '!=', this.#ledger.id)
      .execute()
    const elsewhere = new UsageSums()
    for (const { ledger: _, project_id: project, key_id: key, ...row } of others)
      elsewhere.add({ project, key, ...row })
    this.#elsewhere = elsewhere
    this.#prices = prices.flatMap(({ price_json }) => ('model' in price_json ? [price_json] : []))
    this.#budgets = budgets.map(({ project_id, key_id, per, tokens, cost }) => ({
      ...{ project: project_id, per },
      ...(key_id !== null && { key: key_id }),
      ...(tokens !== null && { tokens }),
      ...(cost !== null && { cost }),
    }))
  }
}
