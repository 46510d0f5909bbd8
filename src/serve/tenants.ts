/** What a token costs its tenant, in any unit; only the ratios matter. */
export interface Prices {
  prompt: number
  /** A prompt token whose keys and values were found in the cache. */
  cached: number
  output: number
}

/** One client of the machine, by whatever the border calls a tenant (an API key, a project). */
export interface Tenant {
  readonly name: string
  /** Its share relative to others. */
  readonly weight: number
  readonly number: number
  /** Service received, in priced tokens divided by the weight: the virtual token counter. */
  served: number
  waiting: number
  running: number
}

/** What a charge for a prompt needs to know of its request. */
interface Charged {
  readonly tenant: Tenant
  readonly promptTokens: number
  chargedAsCached: number
}

// So many idle tenants are remembered before those without a debt are forgotten.
const tenantsBeforeSweep = 1024

/**
 * Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): whoever
 * got least goes first. A tenant that comes back from idleness starts from the least served of those that
 * wait, so that idleness saves up no credit.
 */
export class TenantLedger {
  readonly #prices: Prices
  readonly #weights: Readonly<Record<string, number>>
  readonly #tenants = new Map<string, Tenant>()
  #created = 0
  #sweepAt = tenantsBeforeSweep

  constructor(prices: Prices, weights: Readonly<Record<string, number>> = {}) {
    this.#prices = prices
    this.#weights = weights
  }

  get size(): number {
    return this.#tenants.size
  }

  /** The tenant called `name`; `floor` is the counter of the least served tenant that waits now. */
  arrive(name: string, floor: number): Tenant {
    let tenant = this.#tenants.get(name)
    if (tenant === undefined) {
      this.#sweep(floor)
      const weight = this.#weights[name] ?? 1
      tenant = { name, weight, number: this.#created++, served: floor, waiting: 0, running: 0 }
      this.#tenants.set(name, tenant)
    }
    if (tenant.waiting === 0) tenant.served = Math.max(tenant.served, floor)
    return tenant
  }

  charge(tenant: Tenant, kind: keyof Prices, tokens: number): void {
    tenant.served += (tokens * this.#prices[kind]) / tenant.weight
  }

  /** Charges a prompt whose first `cached` tokens were found, or are being computed by another request. */
  chargePrompt(sequence: Charged, cached: number): void {
    sequence.chargedAsCached = cached
    this.charge(sequence.tenant, 'cached', cached)
    this.charge(sequence.tenant, 'prompt', sequence.promptTokens - cached)
  }

  /** For tokens that were charged as cached and then had to be computed. */
  chargeDifference(tenant: Tenant, tokens: number): void {
    tenant.served += (tokens * Math.max(0, this.#prices.prompt - this.#prices.cached)) / tenant.weight
  }

  // An idle tenant at or below the floor would start from the floor again: nothing is lost with it.
  #sweep(floor: number): void {
    if (this.#tenants.size < this.#sweepAt) return
    for (const [name, tenant] of this.#tenants) {
      if (tenant.waiting + tenant.running === 0 && tenant.served <= floor) this.#tenants.delete(name)
    }
    this.#sweepAt = Math.max(tenantsBeforeSweep, 2 * this.#tenants.size)
  }
}
