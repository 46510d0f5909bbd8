/** What the people's side of the service is made of; nouns of other rooms add theirs in `ropeway up`. */
import { auditMigration } from '../audit/migration.ts'
import { auditRoutes } from '../audit/routes.ts'
import { credentialsMigration } from '../credentials/migration.ts'
import { credentialRoutes } from '../credentials/routes.ts'
import { keysMigration } from '../keys/migration.ts'
import { keyRoutes } from '../keys/routes.ts'
import { peopleMigration } from '../people/migration.ts'
import { recoveryCodesMigration } from '../people/recovery-codes.ts'
import { peopleRoutes } from '../people/routes.ts'
import { sessionEndsMigration, signInCodesMigration } from '../people/sign-in-codes.ts'
import { projectsMigration } from '../projects/migration.ts'
import { projectRoutes } from '../projects/routes.ts'
import type { Migration } from '../store/migrations.ts'
import { usageMigrations } from '../usage/migration.ts'
import { onceMigration } from './once.ts'
import type { RouteModule } from './routes.ts'

export const baseMigrations: readonly Migration[] = [
  onceMigration,
  peopleMigration,
  recoveryCodesMigration,
  signInCodesMigration,
  sessionEndsMigration,
  projectsMigration,
  keysMigration,
  auditMigration,
  credentialsMigration,
  // Budgets bind keys.
  ...usageMigrations,
]

export const baseRoutes: readonly RouteModule[] = [
  peopleRoutes,
  projectRoutes,
  keyRoutes,
  auditRoutes,
  credentialRoutes,
]
