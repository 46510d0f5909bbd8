/** What `ropeway up` is made of: every noun adds a line to each list that it needs. */
import type { ServiceContext } from '../control/service/context.ts'
import type { Loop } from '../control/service/loop.ts'
import { baseMigrations, baseRoutes } from '../control/service/modules.ts'
import type { RouteModule } from '../control/service/routes.ts'
import type { Migration } from '../control/store/migrations.ts'

/** Of this server: what nouns may need beside the context. */
export interface Parts {
  readonly context: ServiceContext
  /** Where this server keeps files: objects, workspaces, logs. */
  readonly folder: string
  /** Whether this server is the only one on its database: leases of a dead predecessor may be ended. */
  readonly isAlone: boolean
}

export const migrations: readonly Migration[] = [...baseMigrations]

export function routesOf(_parts: Parts): readonly RouteModule[] {
  return [...baseRoutes]
}

/** Started in this order once the service answers, stopped in the opposite one before it ends. */
export const loopStarters: readonly ((parts: Parts) => Loop | Promise<Loop>)[] = []
