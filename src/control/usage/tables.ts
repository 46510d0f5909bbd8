import type { DevicePrice } from '../../api/control/usage.ts'
import type { Price } from '../gateway/budgets.ts'
import type { Store } from '../store/store.ts'

export interface TokensRow {
  readonly ledger: string
  readonly day: string
  readonly project_id: string
  readonly key_id: string
  readonly model: string
  readonly requests: number
  readonly prompt: number
  readonly cached: number
  readonly output: number
}

export interface DevicesRow {
  readonly project_id: string
  /** UTC, `2026-11-26`. */
  readonly day: string
  /** The job or deployment. */
  readonly subject_id: string
  readonly name: string
  readonly device: string
  /** Milliseconds times devices. */
  readonly device_ms: number
}

export interface PriceRow {
  /** `model NAME` or `device TYPE`. */
  readonly id: string
  readonly price_json: Price | DevicePrice
}

export interface BudgetRow {
  readonly id: string
  readonly project_id: string
  readonly key_id: string | null
  readonly per: 'day' | 'month'
  readonly tokens: number | null
  readonly cost: number | null
  readonly device_hours: number | null
}

interface UsageTables {
  usage_tokens: TokensRow
  usage_devices: DevicesRow
  prices: PriceRow
  budgets: BudgetRow
}

export const usageTables = (store: Store) => store.db<UsageTables>()
