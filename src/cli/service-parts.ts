/** What `ropeway up` is made of: every noun adds a line to each list that it needs. */
import { dirname, join } from 'node:path'
import { ownFile } from '../base/files.ts'
import { consoleSurface } from '../control/console/surface.ts'
import { credentialUseRoutes } from '../control/credentials/uses.ts'
import { credentialsOfDatasets } from '../control/datasets/credential-uses.ts'
import { deploymentMigrations } from '../control/deployments/migration.ts'
import { credentialsOfDeployments, usesOfDeployments } from '../control/deployments/uses.ts'
import { credentialsOfJobs, credentialsOfTemplates } from '../control/jobs/credential-uses.ts'
import { jobMigrations } from '../control/jobs/migration.ts'
import { credentialsOfCheckpoints } from '../control/models/credential-uses.ts'
import type { ObjectStore } from '../control/objects/store.ts'
import type { ServiceContext } from '../control/service/context.ts'
import type { Loop } from '../control/service/loop.ts'
import { baseMigrations, baseRoutes } from '../control/service/modules.ts'
import type { RouteModule } from '../control/service/routes.ts'
import type { Surface } from '../control/service/surface.ts'
import type { Migration } from '../control/store/migrations.ts'
import { grantsMigration, tuningMigration } from '../control/tuning/migration.ts'
import { startCollecting } from './collecting.ts'
import { type DataParts, dataMigrations, dataPartsOf, dataRoutesOf, startDataLoop } from './data-parts.ts'
import { JobRoom } from './job-room.ts'
import { startPublishing } from './publishing.ts'
import type { ServerIdentity } from './server-identity.ts'
import { makeServing, type Serving } from './serving.ts'
import { TuningRoom } from './tuning-room.ts'

/** Of this server: what nouns may need beside the context. */
export interface Parts {
  readonly context: ServiceContext
  /** Where this server keeps files: objects, workspaces, logs. */
  readonly folder: string
  /** Where large things lie. */
  readonly objects: ObjectStore
  /** Folders of this machine that datasets and checkpoints may be linked from. */
  readonly linkFolders: readonly string[]
  /** Which of the servers of its database it is. */
  readonly server: ServerIdentity
  /** Where the gateway listens. */
  readonly gateway: { readonly host: string; readonly port: number }
  /** Its replicas end with it. */
  readonly leavesNothing?: boolean
}

export const migrations: readonly Migration[] = [
  ...baseMigrations,
  ...dataMigrations,
  ...jobMigrations,
  ...deploymentMigrations,
  tuningMigration,
  grantsMigration,
]

export function routesOf(parts: Parts): readonly RouteModule[] {
  const { store } = parts.context
  const uses = [credentialsOfDatasets, credentialsOfCheckpoints, credentialsOfTemplates, credentialsOfJobs]
  return [
    ...baseRoutes,
    credentialUseRoutes([...uses, credentialsOfDeployments].map((usesIn) => usesIn(store))),
    ...dataRoutesOf(dataOf(parts)),
    ...jobRoom(parts).routes,
    ...servingOf(parts).routes,
  ]
}

/** Answers of other shapes than the service's own. */
export function surfacesOf(parts: Parts): readonly Surface[] {
  const page = ownFile(join('dist', 'console', 'index.html'))
  return [tuningRoom(parts).surface, servingOf(parts).surface, consoleSurface(page && dirname(page))]
}

/** Started in this order once the service answers, stopped in the opposite one before it ends. */
export const loopStarters: readonly ((parts: Parts) => Loop | Promise<Loop>)[] = [
  (parts) => startDataLoop(dataOf(parts), parts.context),
  (parts) => {
    const room = jobRoom(parts)
    room.collecting = startCollecting(parts.context, dataOf(parts), room)
    return room.collecting
  },
  (parts) => jobRoom(parts).start(),
  (parts) => servingOf(parts).start(),
  (parts) => tuningRoom(parts).start(),
  (parts) =>
    startPublishing({
      ...{ context: parts.context, data: dataOf(parts), room: jobRoom(parts) },
      ...servingOf(parts).publishing,
    }),
]

const data = new WeakMap<Parts, DataParts>()

/** Datasets, checkpoints and models of a server, for whatever needs them. */
export function dataOf(parts: Parts): DataParts {
  const known = data.get(parts)
  if (known !== undefined) return known
  const made = dataPartsOf({ ...parts, usesIn: usesOfDeployments(parts.context.store) })
  data.set(parts, made)
  return made
}

const servings = new WeakMap<Parts, Serving>()

function servingOf(parts: Parts): Serving {
  const known = servings.get(parts)
  if (known !== undefined) return known
  const made = makeServing({ ...parts, data: dataOf(parts) })
  servings.set(parts, made)
  return made
}

const rooms = new WeakMap<Parts, JobRoom>()

/** One for a server: its routes wake its loop. */
export function jobRoom(parts: Parts): JobRoom {
  const known = rooms.get(parts)
  if (known !== undefined) return known
  const room = new JobRoom(parts.context, parts.folder, parts.objects, parts.server.cluster, dataOf(parts))
  rooms.set(parts, room)
  return room
}

const tuning = new WeakMap<Parts, TuningRoom>()

function tuningRoom(parts: Parts): TuningRoom {
  const known = tuning.get(parts)
  if (known !== undefined) return known
  const room = new TuningRoom(parts.context, parts.folder, dataOf(parts), jobRoom(parts))
  tuning.set(parts, room)
  return room
}
