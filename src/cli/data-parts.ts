/** What `ropeway up` has of datasets, checkpoints and models: where their bytes lie, their routes and their loop. */
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { Blobs } from '../control/blobs/blobs.ts'
import { blobsMigration } from '../control/blobs/migration.ts'
import { uploadRoutes } from '../control/blobs/routes.ts'
import { sweepBlobs } from '../control/blobs/sweep.ts'
import { openCredential } from '../control/credentials/credentials.ts'
import { Datasets } from '../control/datasets/datasets.ts'
import { datasetsMigration } from '../control/datasets/migration.ts'
import { datasetRoutes } from '../control/datasets/routes.ts'
import { Checkpoints } from '../control/models/checkpoints.ts'
import { modelsMigration } from '../control/models/migration.ts'
import { Models } from '../control/models/models.ts'
import { Retention } from '../control/models/retention.ts'
import { checkpointRoutes, modelRoutes, retentionRoutes } from '../control/models/routes.ts'
import type { UsesIn } from '../control/models/uses.ts'
import { FolderStore } from '../control/objects/folder.ts'
import type { PlaceAccess } from '../control/objects/places.ts'
import { S3Store } from '../control/objects/s3.ts'
import { S3Client } from '../control/objects/s3-client.ts'
import type { ObjectStore } from '../control/objects/store.ts'
import type { ServiceContext } from '../control/service/context.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import type { RouteModule } from '../control/service/routes.ts'
import { readObject } from './object-records.ts'

export const dataMigrations = [blobsMigration, datasetsMigration, modelsMigration]

export interface DataOptions {
  readonly context: ServiceContext
  readonly objects: ObjectStore
  /** Folders of this machine that may be linked. */
  readonly linkFolders: readonly string[]
  readonly usesIn: UsesIn
}

export interface DataParts {
  readonly blobs: Blobs
  readonly datasets: Datasets
  readonly checkpoints: Checkpoints
  readonly models: Models
  readonly retention: Retention
}

export function dataPartsOf({ context, objects, linkFolders, usesIn }: DataOptions): DataParts {
  const blobs = new Blobs(context.store, objects)
  const places: PlaceAccess = {
    folders: linkFolders,
    clock: context.store.clock,
    credential: async (project, name, wanted) => {
      const { kind: _, ...values } = await openCredential(context, project, name, wanted)
      return values as Record<string, string>
    },
  }
  const checkpoints = new Checkpoints(blobs, places, usesIn)
  return {
    blobs,
    datasets: new Datasets(blobs, places),
    checkpoints,
    models: new Models(checkpoints),
    retention: new Retention(checkpoints),
  }
}

export function dataRoutesOf({ blobs, datasets, checkpoints, models, retention }: DataParts): RouteModule[] {
  return [
    uploadRoutes(blobs),
    datasetRoutes(datasets, readObject),
    checkpointRoutes(checkpoints),
    modelRoutes(models, checkpoints),
    retentionRoutes(retention),
  ]
}

const everyMs = 60_000

/** Keeps to the rules of retention, removes what was deleted a day ago, and content that nothing names. */
export function startDataLoop(parts: DataParts, { log }: ServiceContext): Loop {
  const { blobs, datasets, checkpoints, models, retention } = parts
  const pass = async () => {
    await retention.sweep()
    await datasets.purge()
    await models.purge()
    await checkpoints.purge()
    await sweepBlobs(blobs)
  }
  return startLoop({ name: 'data', everyMs, log, pass })
}

/** Where the service keeps objects: `s3://BUCKET/PREFIX`, or a folder. */
export function openObjects(place: string | undefined, folder: string): ObjectStore {
  if (place === undefined) return FolderStore.create(join(folder, 'objects'))
  if (!place.startsWith('s3://')) return FolderStore.create(place)
  const { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL } =
    process.env
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY) {
    throw new UserError(`${place} cannot be opened without a credential.`, {
      failure: 'usage',
      fix: 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_REGION, AWS_ENDPOINT_URL) for `ropeway up`.',
    })
  }
  const url = new URL(place)
  const bucket = {
    bucket: url.hostname,
    prefix: decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, ''),
    region: AWS_REGION || 'us-east-1',
    endpoint: AWS_ENDPOINT_URL || undefined,
  }
  const credential = {
    accessKeyId: AWS_ACCESS_KEY_ID,
    secretAccessKey: AWS_SECRET_ACCESS_KEY,
    sessionToken: AWS_SESSION_TOKEN || undefined,
  }
  return new S3Store(new S3Client(bucket, credential, process.pid))
}
