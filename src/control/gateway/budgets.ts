import { Problem } from '../../http/problem.ts'
import type { Caller } from './keys.ts'
import { dayOf, type Tokens, type UsageSums } from './usage-sums.ts'

/** In whatever currency the owner counts; `model` '*' is every model without a price of its own. */
export interface Price {
  readonly model: string
  readonly inputPerMillion: number
  /** For input that came from the prefix cache; the input's price when absent. */
  readonly cachedPerMillion?: number
  readonly outputPerMillion: number
}

/** What a project, a key, or (with neither) every project may use in each day or month, UTC. */
export interface Budget {
  readonly project?: string
  readonly key?: string
  readonly per: 'day' | 'month'
  readonly tokens?: number
  readonly cost?: number
}

export function priceOf(prices: readonly Price[], model: string): Price | undefined {
  const deployment = model.split(':', 1)[0]!
  const named = (name: string) => prices.find((price) => price.model === name)
  return named(model) ?? named(deployment) ?? named('*')
}

/** 0 for a model without a price. */
export function costOf({ prompt, cached, output }: Readonly<Tokens>, price: Price | undefined): number {
  if (price === undefined) return 0
  const { inputPerMillion, cachedPerMillion = inputPerMillion, outputPerMillion } = price
  return ((prompt - cached) * inputPerMillion + cached * cachedPerMillion + output * outputPerMillion) / 1e6
}

/** Throws 429 `insufficient_quota`, as OpenAI's does, when a budget that binds the caller is used up. */
export function checkBudgets(
  caller: Caller,
  budgets: readonly Budget[],
  sums: readonly Pick<UsageSums, 'used'>[],
  prices: readonly Price[],
  unixMs: number,
): void {
  for (const budget of budgets) {
    const { project, key, per } = budget
    if ((project ?? caller.project) !== caller.project || (key ?? caller.key) !== caller.key) continue
    const holder = key === undefined ? 'project' : 'key'
    const day = dayOf(unixMs)
    const period = per === 'day' ? day : day.slice(0, '2026-11'.length)
    const used = sums.flatMap((some) => [...some.used(holder, caller[holder], period)])
    let tokens = 0
    let cost = 0
    for (const [model, sum] of used) {
      tokens += sum.prompt + sum.output
      cost += costOf(sum, priceOf(prices, model))
    }
    const spent =
      budget.tokens !== undefined && tokens >= budget.tokens
        ? `${budget.tokens} tokens`
        : budget.cost !== undefined && cost >= budget.cost
          ? `${budget.cost} (at the prices set)`
          : undefined
    if (spent !== undefined) throw exhausted(`The ${holder} '${caller[holder]}'`, spent, per, unixMs)
  }
}

function exhausted(who: string, budget: string, per: 'day' | 'month', unixMs: number): Problem {
  const now = new Date(unixMs)
  const next =
    per === 'day'
      ? Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate() + 1)
      : Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1)
  const message = `${who} has used its budget of ${budget} a ${per}. The next ${per} begins on ${dayOf(next)} (UTC).`
  return new Problem(429, 'insufficient_quota', message, {
    headers: { 'retry-after': String(Math.ceil((next - unixMs) / 1000)) },
  })
}
