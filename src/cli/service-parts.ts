/** What `ropeway up` is made of: every noun adds a line to each list that it needs. */
import { join } from 'node:path'
import { jobMigrations } from '../control/jobs/migration.ts'
import { FolderStore } from '../control/objects/folder.ts'
import type { ObjectStore } from '../control/objects/store.ts'
import type { ServiceContext } from '../control/service/context.ts'
import type { Loop } from '../control/service/loop.ts'
import { baseMigrations, baseRoutes } from '../control/service/modules.ts'
import type { RouteModule } from '../control/service/routes.ts'
import type { Migration } from '../control/store/migrations.ts'
import { JobRoom } from './job-room.ts'

/** Of this server: what nouns may need beside the context. */
export interface Parts {
  readonly context: ServiceContext
  /** Where this server keeps files: objects, workspaces, logs. */
  readonly folder: string
  /** Whether this server is the only one on its database: leases of a dead predecessor may be ended. */
  readonly isAlone: boolean
}

export const migrations: readonly Migration[] = [...baseMigrations, ...jobMigrations]

export function routesOf(parts: Parts): readonly RouteModule[] {
  return [...baseRoutes, ...jobRoom(parts).routes]
}

/** Started in this order once the service answers, stopped in the opposite one before it ends. */
export const loopStarters: readonly ((parts: Parts) => Loop | Promise<Loop>)[] = [
  (parts) => jobRoom(parts).start(),
]

const rooms = new WeakMap<Parts, JobRoom>()

/** One for a server: its routes wake its loop. */
function jobRoom(parts: Parts): JobRoom {
  const known = rooms.get(parts)
  if (known !== undefined) return known
  const room = new JobRoom(parts.context, parts.folder, objectsOf(parts), parts.isAlone)
  rooms.set(parts, room)
  return room
}

function objectsOf({ folder }: Parts): ObjectStore {
  return FolderStore.create(join(folder, 'objects'))
}
