/** Tokens of requests, added up. A request with n answers counts its prompt once, as its usage says. */
export interface Tokens {
  requests: number
  prompt: number
  /** Of the prompt's tokens, those that came from a prefix cache. */
  cached: number
  output: number
}

export const noTokens: Readonly<Tokens> = { requests: 0, prompt: 0, cached: 0, output: 0 }

/** Whose tokens, and on which day (UTC, `2026-11-25`). */
export interface UsageKey {
  day: string
  project: string
  key: string
  /** The deployment, or `deployment:adapter`. */
  model: string
}

export type UsageRow = UsageKey & Tokens

/** What rows are wanted; what is absent is not asked for. Days are inclusive. */
export interface UsageFilter {
  project?: string
  key?: string
  model?: string
  fromDay?: string
  toDay?: string
}

/** Sums per project, key, model and day, and what budgets ask: who has used how much of a model in a period. */
export class UsageSums {
  readonly #rows = new Map<string, UsageRow>()
  /** Holder and period -> model -> tokens. */
  readonly #periods = new Map<string, Map<string, Tokens>>()

  add(row: UsageRow): void {
    const { day, project, key, model } = row
    const id = JSON.stringify([day, project, key, model])
    const sum = this.#rows.get(id)
    if (sum === undefined) this.#rows.set(id, { ...row })
    else addTo(sum, row)
    for (const period of [day, day.slice(0, '2026-11'.length)]) {
      addTo(this.#of('project', project, period, model), row)
      addTo(this.#of('key', key, period, model), row)
    }
  }

  /** By day, then project, key and model. */
  rows(filter: UsageFilter = {}): UsageRow[] {
    const { project, key, model, fromDay = '', toDay = '\uffff' } = filter
    const wanted = [...this.#rows.values()].filter(
      (row) =>
        row.day >= fromDay &&
        row.day <= toDay &&
        (project === undefined || row.project === project) &&
        (key === undefined || row.key === key) &&
        (model === undefined || row.model === model),
    )
    const order = ({ day, ...row }: UsageRow) => JSON.stringify([day, row.project, row.key, row.model])
    return wanted.map((row) => ({ ...row })).sort((a, b) => (order(a) < order(b) ? -1 : 1))
  }

  /** What a project or a key used of each model in a day (`2026-11-25`) or a month (`2026-11`). */
  used(holder: 'project' | 'key', id: string, period: string): ReadonlyMap<string, Readonly<Tokens>> {
    return this.#periods.get(JSON.stringify([holder, id, period])) ?? new Map()
  }

  #of(holder: 'project' | 'key', id: string, period: string, model: string): Tokens {
    const place = JSON.stringify([holder, id, period])
    let models = this.#periods.get(place)
    if (models === undefined) this.#periods.set(place, (models = new Map()))
    let tokens = models.get(model)
    if (tokens === undefined) models.set(model, (tokens = { ...noTokens }))
    return tokens
  }
}

export function addTo(sum: Tokens, more: Readonly<Tokens>): void {
  sum.requests += more.requests
  sum.prompt += more.prompt
  sum.cached += more.cached
  sum.output += more.output
}

/** The UTC day of a time. */
export function dayOf(unixMs: number): string {
  return new Date(unixMs).toISOString().slice(0, '2026-11-25'.length)
}
