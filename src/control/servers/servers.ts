/**
 * The servers of one database: each says every few seconds that it is there, and where it answers.
 *
 * A server looks after one cluster, the machine that it runs on; its files and runs are there and nowhere else. Who is
 * silent for {@link goneMs} is gone: its cluster gets no new jobs, and what only it can answer is refused with that reason.
 */
import { UserError } from '../../base/errors.ts'
import type { Store } from '../store/store.ts'

export interface ServerRow {
  /** Of the data folder, for as long as that exists. */
  readonly id: string
  /** The name of its machine as a cluster. */
  readonly cluster: string
  /** Where other servers reach it. */
  readonly url: string
  readonly gateway_url: string | null
  readonly started_at: number
  /** Unix milliseconds, by its own clock. */
  readonly seen_at: number
}

export const beatEveryMs = 5_000
/** Six beats: a server that is busy, or whose database is slow, is not gone. */
export const goneMs = 30_000

interface Tables {
  servers: ServerRow
}

/** Writes down that this server is there from now on. Throws UserError when another one has its cluster's name. */
export async function enterServer(
  store: Store,
  { id, cluster, url, gateway_url }: Omit<ServerRow, 'started_at' | 'seen_at'>,
): Promise<void> {
  const nowMs = store.clock.unixMs()
  await store.transaction(async () => {
    const db = store.db<Tables>()
    const named = await db.selectFrom('servers').selectAll().where('cluster', '=', cluster).executeTakeFirst()
    if (named !== undefined && named.id !== id && !isGone(named, nowMs))
      throw new UserError(`Another server of this database, at ${named.url}, has the cluster ${cluster}.`, {
        failure: 'conflict',
        fix: 'Each server needs a data folder of its own: give a new one with --data.',
      })
    await db.deleteFrom('servers').where('cluster', '=', cluster).where('id', '!=', id).execute()
    const row = { cluster, url, gateway_url, started_at: nowMs, seen_at: nowMs }
    await db
      .insertInto('servers')
      .values({ id, ...row })
      .onConflict((conflict) => conflict.column('id').doUpdateSet(row))
      .execute()
  })
}

/** Its gateway answers at this port of the same machine; returns where that is. */
export async function noteGateway(store: Store, id: string, port: string): Promise<string | undefined> {
  const db = store.db<Tables>()
  const row = await db.selectFrom('servers').select('url').where('id', '=', id).executeTakeFirst()
  if (row === undefined) return undefined
  const url = new URL(row.url)
  url.port = port
  await db.updateTable('servers').set({ gateway_url: url.origin }).where('id', '=', id).execute()
  return url.origin
}

/** It is still there. */
export async function beat(store: Store, id: string): Promise<void> {
  await store
    .db<Tables>()
    .updateTable('servers')
    .set({ seen_at: store.clock.unixMs() })
    .where('id', '=', id)
    .execute()
}

export async function listServers(store: Store): Promise<ServerRow[]> {
  return await store.db<Tables>().selectFrom('servers').selectAll().orderBy('cluster').execute()
}

/** Those that were not seen for {@link goneMs}. */
export async function goneServers(store: Store): Promise<ServerRow[]> {
  return await store
    .db<Tables>()
    .selectFrom('servers')
    .selectAll()
    .where('seen_at', '<', store.clock.unixMs() - goneMs)
    .execute()
}

/** The server that looks after a cluster, whether it is there or not. */
export async function serverOf(store: Store, cluster: string): Promise<ServerRow | undefined> {
  return await store
    .db<Tables>()
    .selectFrom('servers')
    .selectAll()
    .where('cluster', '=', cluster)
    .executeTakeFirst()
}

export function isGone({ seen_at }: Pick<ServerRow, 'seen_at'>, nowMs: number): boolean {
  return nowMs - seen_at > goneMs
}
