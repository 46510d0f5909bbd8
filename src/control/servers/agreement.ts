/** What all servers of a database must have in common; found out at the start, not by the first request that fails. */
import { randomUUID } from 'node:crypto'
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import type { Sealer } from '../credentials/sealer.ts'
import { sha256Of } from '../objects/hash.ts'
import type { ObjectStore } from '../objects/store.ts'
import type { Store } from '../store/store.ts'

const secretFact = 'secrets'
const objectsFact = 'objects'
/** Lies among the objects, and says whose they are. */
export const markKey = 'ropeway-objects.json'
const mark = z.object({ id: z.string() })
const place = z.object({ id: z.string().optional(), url: z.string().optional() })

interface Tables {
  service_facts: { name: string; fact_json: unknown }
}

/** Throws UserError when stored credentials were encrypted with another key than this server has, unless it replaces that. */
export async function agreeOnSecrets(store: Store, sealer: Sealer, replaces: boolean): Promise<void> {
  const db = store.db<Tables>()
  const own = { key: sealer.keyId }
  await db
    .insertInto('service_facts')
    .values({ name: secretFact, fact_json: own })
    .onConflict((conflict) =>
      replaces ? conflict.column('name').doUpdateSet({ fact_json: own }) : conflict.doNothing(),
    )
    .execute()
  const known = z.object({ key: z.string() }).parse(await factOf(store, secretFact))
  if (known.key === own.key) return
  throw new UserError(
    `The credentials in this database are encrypted with the key ${known.key}, and this server has ${own.key}.`,
    {
      failure: 'conflict',
      fix: 'Give it the same key with --key-file or --key-command: secrets.key in the data folder of the first server. If it is lost: --replace-key.',
    },
  )
}

/**
 * Throws UserError when this server would keep objects elsewhere than the others of its database: what one of them
 * stores must be there for all.
 */
export async function agreeOnObjects(store: Store, objects: ObjectStore): Promise<void> {
  await store.transaction(async () => {
    // Written first: two servers that start at the same time come one after the other.
    await store
      .db<Tables>()
      .insertInto('service_facts')
      .values({ name: objectsFact, fact_json: {} })
      .onConflict((conflict) => conflict.column('name').doUpdateSet({ name: objectsFact }))
      .execute()
    const { id: agreed, url } = place.parse(await factOf(store, objectsFact))
    const found = await markOf(objects)
    if (agreed !== undefined && agreed === found) {
      if (url !== objects.url) await noteObjects(store, { id: agreed, url: objects.url })
      return
    }
    if (agreed !== undefined)
      throw new UserError(`The objects of this database are not in ${objects.url}.`, {
        failure: 'conflict',
        fix: 'All servers of a database share one place: give --objects s3://BUCKET/PREFIX, or a folder that all reach.',
      })
    const id = found ?? randomUUID()
    if (found === undefined) await writeMark(objects, id)
    await noteObjects(store, { id, url: objects.url })
  })
}

async function noteObjects(store: Store, place: { id: string; url: string }): Promise<void> {
  await store
    .db<Tables>()
    .updateTable('service_facts')
    .set({ fact_json: place })
    .where('name', '=', objectsFact)
    .execute()
}

/** Where the objects of a database are, as the server that started last reached them; undefined before the first start. */
export async function placeOfObjects(store: Store): Promise<string | undefined> {
  const row = await store
    .db<Tables>()
    .selectFrom('service_facts')
    .selectAll()
    .where('name', '=', objectsFact)
    .executeTakeFirst()
  return row === undefined ? undefined : place.parse(row.fact_json).url
}

async function factOf(store: Store, name: string): Promise<unknown> {
  const row = await store
    .db<Tables>()
    .selectFrom('service_facts')
    .selectAll()
    .where('name', '=', name)
    .executeTakeFirstOrThrow()
  return row.fact_json
}

async function markOf(objects: ObjectStore): Promise<string | undefined> {
  const found = await objects.get(markKey)
  if (found === undefined) return undefined
  const pieces: Uint8Array[] = []
  for await (const piece of found.bytes) pieces.push(piece)
  return mark.parse(JSON.parse(Buffer.concat(pieces).toString('utf8'))).id
}

async function writeMark(objects: ObjectStore, id: string): Promise<void> {
  const bytes = Buffer.from(JSON.stringify({ id }))
  await objects.put(markKey, bytes, await sha256Of(bytes))
}
