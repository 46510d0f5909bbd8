/** Who a server is among those of its database: it stays with the data folder. */
import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { readJsonFile, writeFileAtomic } from '../base/files.ts'

export interface ServerIdentity {
  readonly id: string
  /** The name of this machine as a cluster. */
  readonly cluster: string
}

const stored = z.object({ name: z.string(), id: z.string().optional() })

/**
 * A cluster is where its runs and files are, so its name stays with the folder: two servers of one database must
 * never take one another's runs for their own. `isAlone`: the database is this folder's too, so one name does for all.
 */
export function serverIdentity(folder: string, isAlone: boolean): ServerIdentity {
  const path = join(folder, 'cluster.json')
  const known = existsSync(path) ? stored.parse(readJsonFile(path)) : undefined
  const identity = {
    id: known?.id ?? `server_${randomUUID()}`,
    cluster: known?.name ?? (isAlone ? 'local' : newName()),
  }
  if (known?.id === undefined)
    writeFileAtomic(path, JSON.stringify({ name: identity.cluster, id: identity.id }))
  return identity
}

function newName(): string {
  const host = hostname()
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
  return `${host.slice(0, 40) || 'local'}-${randomBytes(3).toString('hex')}`
}
