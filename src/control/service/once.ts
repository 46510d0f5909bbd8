/**
 * Requests that do their work once, however often they are asked: who lost the answer asks again with the same
 * `Idempotency-Key` and gets the answer that there was.
 *
 * The key is written in the transaction of the work itself, so either both are there or neither. Answers may hold a
 * secret that is shown once, so they are kept encrypted.
 */
import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { EndpointDefinition } from '../../api/control/endpoint.ts'
import { Refused } from '../../api/control/problem.ts'
import type { Migration } from '../store/migrations.ts'
import type { Store } from '../store/store.ts'
import type { Actor } from './actor.ts'
import type { ServiceContext } from './context.ts'

export const keyHeader = 'idempotency-key'
/** For so long an answer is kept. */
export const keptMs = 24 * 3_600_000
const keyPattern = /^[\x21-\x7e]{1,200}$/

interface AnswerRow {
  /** Hash of the key and of whose it is. */
  id: string
  /** Hash of all that was asked. */
  request: string
  /** Encrypted; empty while the work is being done, which nobody else sees. */
  answer: string
  at: number
}

interface Tables {
  answered_requests: AnswerRow
}

export const onceMigration: Migration = {
  name: '0125-answered-requests',
  async up(db, { text, integer }) {
    await db.schema
      .createTable('answered_requests')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('request', text, (column) => column.notNull())
      .addColumn('answer', text, (column) => column.notNull())
      .addColumn('at', integer, (column) => column.notNull())
      .execute()
    await db.schema.createIndex('answered_requests_by_time').on('answered_requests').column('at').execute()
  },
}

/** Runs `work` in a transaction with the key of the request, or gives the answer that it had. */
export async function onceFor(
  { store, sealer }: ServiceContext,
  { name }: EndpointDefinition,
  actor: Actor | undefined,
  request: FastifyRequest,
  reply: FastifyReply,
  work: () => Promise<unknown>,
): Promise<unknown> {
  const key = request.headers[keyHeader]
  if (key === undefined || actor === undefined) return await work()
  if (typeof key !== 'string' || !keyPattern.test(key))
    throw new Refused('invalid_request', 'The Idempotency-Key is not 1 to 200 printable ASCII characters.', {
      fix: 'Send a random one for each new request, and the same one when you ask again.',
    })
  // Not of the person: another key of theirs, which may less, must not be told an answer that holds a secret.
  const id = digest(actor.id, key)
  const asked = digest(name, request.params, request.query, request.body)
  return await store.transaction(async () => {
    const row = { id, request: asked, answer: '', at: store.clock.unixMs() }
    const db = store.db<Tables>()
    const inserted = await db
      .insertInto('answered_requests')
      .values(row)
      // Waits for whoever is doing the same work now.
      .onConflict((conflict) => conflict.doNothing())
      .returning('id')
      .executeTakeFirst()
    if (inserted === undefined) {
      const known = await db
        .selectFrom('answered_requests')
        .selectAll()
        .where('id', '=', id)
        .executeTakeFirstOrThrow()
      if (known.request !== asked)
        throw new Refused('conflict', 'Another request was made with this Idempotency-Key.', {
          fix: 'Send a new key with a new request.',
        })
      reply.header('idempotency-replayed', 'true')
      return JSON.parse(sealer.open(known.answer, ownerOf(id)))
    }
    const answer = (await work()) ?? null
    const sealed = sealer.seal(JSON.stringify(answer), ownerOf(id))
    await db.updateTable('answered_requests').set({ answer: sealed }).where('id', '=', id).execute()
    return answer
  })
}

/** Forgets answers that nobody asks for again. */
export async function forgetAnswers(store: Store): Promise<void> {
  await store
    .db<Tables>()
    .deleteFrom('answered_requests')
    .where('at', '<', store.clock.unixMs() - keptMs)
    .execute()
}

function ownerOf(id: string): string {
  return `answered_requests ${id}`
}

function digest(...parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}
