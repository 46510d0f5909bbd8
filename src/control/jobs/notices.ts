/**
 * Messages about jobs and deployments to people's chat: written with the change that they tell of, sent later, as often as it takes.
 * One may arrive twice when the answer to the first was lost; none is lost with a server.
 */
import { messageOf } from '../../base/errors.ts'
import { openCredential } from '../credentials/credentials.ts'
import type { Sealer } from '../credentials/sealer.ts'
import { recordEvent } from '../store/events.ts'
import { takeName } from '../store/leases.ts'
import type { Migration } from '../store/migrations.ts'
import type { Store } from '../store/store.ts'
import { storable } from '../store/values.ts'
import type { JobRow } from './rows.ts'

interface NoticeRow {
  readonly id: string
  /** Or of a deployment. */
  readonly job_id: string
  readonly project_id: string
  readonly credential: string
  readonly text: string
  readonly tries: number
  readonly next_at: number
}

interface Tables {
  job_notices: NoticeRow
}

export const noticesMigration: Migration = {
  name: '0310-job-notices',
  async up(db, { text, integer }) {
    await db.schema
      .createTable('job_notices')
      .addColumn('id', text, (column) => column.primaryKey())
      .addColumn('job_id', text, (column) => column.notNull())
      .addColumn('project_id', text, (column) => column.notNull())
      .addColumn('credential', text, (column) => column.notNull())
      .addColumn('text', text, (column) => column.notNull())
      .addColumn('tries', integer, (column) => column.notNull())
      .addColumn('next_at', integer, (column) => column.notNull())
      .execute()
    await db.schema.createIndex('job_notices_by_time').on('job_notices').columns(['next_at', 'id']).execute()
  },
}

/** In the transaction of the change, when the job asks for a message about it. */
export async function writeNotice(store: Store, row: JobRow): Promise<void> {
  const { notify } = row.spec.placement
  if (notify === undefined || !(notify.on as readonly string[]).includes(row.state)) return
  const text = `Job ${row.name} is ${row.state}: ${row.status.message} (${row.id})`
  await writeMessage(store, row, notify.slack, text)
}

/** In the transaction of what it tells of: a job's, or a deployment's. */
export async function writeMessage(
  store: Store,
  { id, project_id }: { readonly id: string; readonly project_id: string },
  credential: string,
  text: string,
): Promise<void> {
  await store
    .db<Tables>()
    .insertInto('job_notices')
    .values({
      ...{ id: store.ids.next('notice'), job_id: id, project_id, credential, text: storable(text) },
      tries: 0,
      next_at: store.clock.unixMs(),
    })
    .execute()
}

const sentAtOnceMax = 20
const triesMax = 10
const againMsMin = 5_000
const sendMsMax = 10_000
const leaseMs = 5 * 60_000

export type Send = (url: string, text: string) => Promise<void>

/** Sends what is due; returns how many went out. Only one server at a time does. */
export async function sendNotices(
  store: Store,
  sealer: Sealer,
  owner: string,
  send: Send = post,
): Promise<number> {
  const db = store.db<Tables>()
  const due = await db
    .selectFrom('job_notices')
    .selectAll()
    .where('next_at', '<=', store.clock.unixMs())
    .orderBy('next_at')
    .limit(sentAtOnceMax)
    .execute()
  if (due.length === 0 || !(await takeName(store, 'job-notices', { owner, forMs: leaseMs }))) return 0
  let sent = 0
  for (const notice of due) {
    try {
      const { webhook_url } = await openCredential(
        { store, sealer },
        notice.project_id,
        notice.credential,
        'slack',
      )
      await send(webhook_url, notice.text)
      await db.deleteFrom('job_notices').where('id', '=', notice.id).execute()
      sent++
    } catch (error) {
      await putOff(store, notice, messageOf(error))
    }
  }
  return sent
}

async function putOff(store: Store, notice: NoticeRow, why: string): Promise<void> {
  const db = store.db<Tables>()
  const tries = notice.tries + 1
  if (tries < triesMax) {
    const next_at = store.clock.unixMs() + againMsMin * 2 ** tries
    await db.updateTable('job_notices').set({ tries, next_at }).where('id', '=', notice.id).execute()
    return
  }
  await store.transaction(async () => {
    await store.db<Tables>().deleteFrom('job_notices').where('id', '=', notice.id).execute()
    await recordEvent(store, {
      subject: notice.job_id,
      project: notice.project_id,
      kind: notice.job_id.startsWith('job_') ? 'job.notice_failed' : 'deployment.notice_failed',
      message: `A message through ${notice.credential} was given up after ${triesMax} tries: ${why}`,
    })
  })
}

/** Slack's form, which others take too. The address is a secret: no message of ours holds it. */
async function post(url: string, text: string): Promise<void> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ text }),
    redirect: 'error',
    signal: AbortSignal.timeout(sendMsMax),
  }).catch((error) => {
    throw new Error(
      `the address of the credential does not answer (${error instanceof Error ? error.name : 'failed'})`,
    )
  })
  await response.body?.cancel()
  if (!response.ok) throw new Error(`it was answered with status ${response.status}`)
}
