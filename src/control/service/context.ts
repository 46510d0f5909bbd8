import type { Logger } from '../../base/log.ts'
import type { Sealer } from '../credentials/sealer.ts'
import type { OidcProvider } from '../people/oidc-provider.ts'
import type { ScryptCost } from '../people/passwords.ts'
import type { Store } from '../store/store.ts'

/** What every route module gets. What only one noun needs (launchers, objects) is an argument of that noun's module. */
export interface ServiceContext {
  readonly store: Store
  readonly log: Logger
  /** Encrypts what is stored and must be read again. */
  readonly sealer: Sealer
  /** What hashing a password costs: `passwordCost`, but for tests. */
  readonly scrypt: ScryptCost
  /** Who may make an account: anybody, or who was invited. */
  readonly signUp: 'open' | 'invited'
  /** Through which people may log in too. */
  readonly oidc?: OidcProvider | undefined
  /** So often who gets a long answer is asked again whether they may; every few seconds, but for tests. */
  readonly askAgainMs?: number | undefined
}
