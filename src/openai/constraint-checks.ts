import { UserError } from '../base/errors.ts'
import { type Constraint, type Verdict, verdictOf } from '../constrain/constraint.ts'
import { Recent } from '../constrain/recent.ts'
import { tooManySchemas, unavailable } from './refusals.ts'

/** Tells on another thread whether a constraint can be kept. */
export type RemoteCheck = (constraint: Constraint) => Promise<Verdict>

/** Clients ask with one schema again and again. */
const verdictsMax = 64

/**
 * Tells whether constraints can be kept. To know it, a schema becomes a grammar, which takes a second where it has many
 * patterns: that is done elsewhere, so that streams go on meanwhile.
 */
export class ConstraintChecks {
  readonly #remote: RemoteCheck | undefined
  readonly #remoteMax: number
  readonly #verdicts = new Recent<Verdict>(verdictsMax)
  readonly #underWay = new Map<string, Promise<Verdict>>()

  /** Without `remote` everything is checked here; `remoteMax` constraints that differ may be on their way. */
  constructor(remote?: RemoteCheck, remoteMax = 0) {
    this.#remote = remote
    this.#remoteMax = remoteMax
  }

  /** Rejects with the {@link Problem} where too many wait or the thread died. */
  async check(constraint: Constraint): Promise<Verdict> {
    const key = JSON.stringify(constraint)
    const made = this.#verdicts.has(key) ? undefined : await this.#made(key, constraint)
    return this.#verdicts.get(key, () => made!)
  }

  #made(key: string, constraint: Constraint): Verdict | Promise<Verdict> {
    const remote = this.#remote
    if (remote === undefined) return verdictOf(constraint)
    return this.#underWay.get(key) ?? this.#ask(key, () => remote(constraint))
  }

  #ask(key: string, ask: () => Promise<Verdict>): Promise<Verdict> {
    if (this.#underWay.size >= this.#remoteMax) throw tooManySchemas()
    const asked = ask()
      .catch((error: unknown) => {
        throw error instanceof UserError && error.failure === 'unreachable' ? unavailable() : error
      })
      .finally(() => this.#underWay.delete(key))
    this.#underWay.set(key, asked)
    return asked
  }
}
