import type { OrganisationRole, ProjectRole } from '../../api/control/permissions.ts'

/** Who asks. */
export interface Actor {
  readonly kind: 'session' | 'key'
  /** The person, also behind a key. */
  readonly personId: string
  /** The session or the key itself. */
  readonly id: string
  readonly name: string
  /** Runs the service: may do everything everywhere. */
  readonly isOperator: boolean
  /** What a key may do of what its person may; undefined for a session. */
  readonly scopes?: readonly string[]
  /** The project that a key is bound to. */
  readonly onlyProject?: string
  /** What a key may at most in that project, whatever its person may. */
  readonly roleMax?: ProjectRole
  /** When the key ends, in Unix milliseconds; absent for one without an end, and for a session. */
  readonly endsAt?: number
  /** The key has limits at the gateway. */
  readonly isLimited?: boolean
}

/** The project in the path, and what the actor is there. */
export interface ProjectSeen {
  readonly id: string
  readonly name: string
  readonly organisationId: string
  readonly role: ProjectRole
}

export interface OrganisationSeen {
  readonly id: string
  readonly name: string
  readonly role: OrganisationRole
}
