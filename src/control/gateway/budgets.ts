import type { Clock } from '../../base/clock.ts'
import { Problem } from '../../http/problem.ts'
import type { Bill } from './ledger.ts'
import { dayOf, noTokens, type Tokens, type UsageSums } from './usage-sums.ts'

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

type Holder = 'project' | 'key'

export interface BudgetsOptions {
  readonly budgets: () => readonly Budget[]
  readonly prices: () => readonly Price[]
  /** What was used here and, as far as is known, at other gateways. */
  readonly sums: () => readonly Pick<UsageSums, 'used'>[]
  readonly clock: Clock
}

/** A request that runs, and what it may use in all. */
interface Running {
  readonly bill: Bill
  readonly most: Readonly<Tokens>
}

/**
 * Lets requests through while their budgets last.
 *
 * What runs counts with all that it may use yet, or as many requests as come at once would each find the same rest of
 * a budget. A request that may use more than is left is let through alone, as OpenAI does: nobody knows how long its
 * answer will be, and otherwise the last of a budget could never be used.
 */
export class Budgets {
  readonly #options: BudgetsOptions
  readonly #running = new Map<string, Set<Running>>()

  constructor(options: BudgetsOptions) {
    this.#options = options
  }

  /**
   * Counts the request until the returned call. Throws 429: `insufficient_quota`, as OpenAI's does, when a budget that
   * binds it is used up, `rate_limit_exceeded` when others that run may use the rest of it.
   */
  admit(bill: Bill, most: Readonly<Tokens>): () => void {
    const { budgets, clock } = this.#options
    const { project, key } = bill.head
    const one = { bill, most }
    for (const budget of budgets())
      if ((budget.project ?? project) === project && (budget.key ?? key) === key)
        this.#check(budget, one, clock.unixMs())
    let running = this.#running.get(project)
    if (running === undefined) this.#running.set(project, (running = new Set()))
    running.add(one)
    return () => {
      running.delete(one)
      if (running.size === 0) this.#running.delete(project)
    }
  }

  #check(budget: Budget, one: Running, unixMs: number): void {
    const holder: Holder = budget.key === undefined ? 'project' : 'key'
    const id = one.bill.head[holder]
    const who = `The ${holder} '${id}'`
    const others = [...(this.#running.get(one.bill.head.project) ?? [])].filter(
      ({ bill }) => bill.head[holder] === id,
    )
    const used = this.#used(holder, id, budget.per, unixMs)
    const held = this.#sumOf([...others, one].map(restOf))
    for (const unit of ['tokens', 'cost'] as const) {
      const limit = budget[unit]
      if (limit === undefined) continue
      const said = unit === 'tokens' ? `${limit} tokens` : `${limit} (at the prices set)`
      if (used[unit] >= limit) throw exhausted(who, said, budget.per, unixMs)
      if (others.length > 0 && used[unit] + held[unit] > limit) throw spokenFor(who, said, budget.per)
    }
  }

  #used(holder: Holder, id: string, per: Budget['per'], unixMs: number): Spent {
    const day = dayOf(unixMs)
    const period = per === 'day' ? day : day.slice(0, '2026-11'.length)
    return this.#sumOf(this.#options.sums().flatMap((some) => [...some.used(holder, id, period)]))
  }

  #sumOf(parts: readonly (readonly [model: string, tokens: Readonly<Tokens>])[]): Spent {
    const prices = this.#options.prices()
    const spent = { tokens: 0, cost: 0 }
    for (const [model, tokens] of parts) {
      spent.tokens += tokens.prompt + tokens.output
      spent.cost += costOf(tokens, priceOf(prices, model))
    }
    return spent
  }
}

interface Spent {
  readonly tokens: number
  readonly cost: number
}

/** What a running request may use beyond what is written down of it. */
function restOf({ bill, most }: Running): [model: string, tokens: Tokens] {
  const { tokens, written } = bill
  const rest = (field: 'prompt' | 'output') => Math.max(most[field], tokens[field]) - written[field]
  // Nobody knows yet what of a prompt comes from a cache.
  return [bill.head.model, { ...noTokens, prompt: rest('prompt'), output: rest('output') }]
}

function spokenFor(who: string, budget: string, per: Budget['per']): Problem {
  const message = `Requests of ${who.replace('The', 'the')} that run now may use the rest of its budget of ${budget} a ${per}. Ask again when they have ended, or for fewer tokens.`
  return new Problem(429, 'rate_limit_exceeded', message, { headers: { 'retry-after': '1' } })
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
