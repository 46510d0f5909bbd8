import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { partBytesOf } from '../../src/api/control/digest.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { UserError } from '../../src/base/errors.ts'
import { Blobs } from '../../src/control/blobs/blobs.ts'
import { blobsMigration } from '../../src/control/blobs/migration.ts'
import { Datasets } from '../../src/control/datasets/datasets.ts'
import { datasetsMigration } from '../../src/control/datasets/migration.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import type { ObjectStore } from '../../src/control/objects/store.ts'
import type { Migration } from '../../src/control/store/migrations.ts'
import type { Watch } from '../../src/control/store/watched-driver.ts'
import { bytesOf, hash } from '../objects/bytes.ts'
import type { TestDatabases } from '../store/databases.ts'
import { FaultInjector } from '../store/faults.ts'

export const dataMigrations: readonly Migration[] = [blobsMigration, datasetsMigration]

/** Every call of an object store goes through `watch`, as those of the database do. */
export function watched(objects: ObjectStore, watch: Watch): ObjectStore {
  return new Proxy(objects, {
    get: (target, name) => {
      const value = Reflect.get(target, name)
      // No call: it only says where something lies.
      if (name === 'pathOf') return value.bind(target)
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => watch(`objects.${String(name)}`, async () => value.apply(target, args))
    },
  })
}

export async function opened(databases: TestDatabases, migrations = dataMigrations) {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-datasets-'))
  const clock = new ManualClock(1_700_000_000_000)
  const faults = new FaultInjector()
  const store = await databases.open({ migrations, clock, watch: faults.watch })
  const real = FolderStore.create(join(folder, 'objects'))
  const blobs = new Blobs(store, watched(real, faults.watch))
  const folders = [join(folder, 'linked')]
  const credential = () =>
    Promise.reject(new UserError('There is no such credential.', { failure: 'not_found' }))
  const datasets = new Datasets(blobs, { folders, credential, clock })
  return {
    ...{ folder, clock, faults, store, objects: real, blobs, datasets },
    async [Symbol.asyncDispose]() {
      await store.close()
      rmSync(folder, { recursive: true, force: true, maxRetries: 9 })
    },
  }
}

export function partsOf(bytes: Uint8Array): Uint8Array[] {
  const partBytes = partBytesOf(bytes.length)
  return Array.from({ length: Math.ceil(bytes.length / partBytes) }, (_, index) =>
    bytes.subarray(index * partBytes, (index + 1) * partBytes),
  )
}

export const announcementOf = (bytes: Uint8Array) => ({
  bytes: bytes.length,
  parts: partsOf(bytes).map(hash),
})

/** Sends what is missing and completes; `onKept` hears of each part that was acknowledged. Returns the blob's id. */
export async function upload(
  blobs: Blobs,
  project: string,
  bytes: Uint8Array,
  onKept: (number: number) => void = () => undefined,
): Promise<string> {
  const { blob, missing } = await blobs.open(project, announcementOf(bytes))
  for (const number of missing) {
    await blobs.putPart(project, blob.id, number, partsOf(bytes)[number - 1]!)
    onKept(number)
  }
  return (await blobs.complete(project, blob.id)).id
}

export const small = (seed: number) => bytesOf(seed, 100 + seed)
/** Two parts. */
export const large = bytesOf(9, partBytesOf(1) + 5)
