/** OpenAI's files and fine-tuning on the service's address, below /v1: a handler parses, asks, answers. */
import { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { queryInteger, storableText } from '../../api/control/fields.ts'
import type { Refused } from '../../api/control/problem.ts'
import { createTuning, fileBytesMax, uploadPurposes } from '../../api/tuning.ts'
import { goneSignal } from '../../http/gone.ts'
import { Problem } from '../../http/problem.ts'
import type { Checkpoints } from '../models/checkpoints.ts'
import { organisationOf } from '../projects/projects.ts'
import { checked } from '../service/checked.ts'
import type { ServiceContext } from '../service/context.ts'
import { bytesFor, eventsFor } from '../service/standing.ts'
import type { Surface } from '../service/surface.ts'
import { eventsOf, hasEvent } from '../store/events.ts'
import { cursorAt } from '../store/pages.ts'
import { problemFor } from './asking.ts'
import { cursorBehind, noSuchPlace } from './cursors.ts'
import { type TuningFiles, viewOfFile } from './files.ts'
import { grantRoutes } from './grant-routes.ts'
import { Grants } from './grants.ts'
import { joiner, listOf, type On } from './handlers.ts'
import { metricsAt } from './metrics.ts'
import { readForm } from './multipart.ts'
import { jobIdOf, ownId, shownId } from './rows.ts'
import type { Tunings } from './tunings.ts'
import { viewOfTuning, viewOfTuningCheckpoint, viewOfTuningEvent } from './views.ts'

export interface TuningSurfaceOptions {
  readonly files: TuningFiles
  readonly tunings: Tunings
  readonly checkpoints: Checkpoints
}

const formLimits = { fileBytesMax, fieldsMax: 20, fieldBytesMax: 10_000 }
const behind = storableText(100, 1).optional()
const pageQuery = z.object({ after: behind, limit: queryInteger(1, 100).default(20) })
const eventQuery = z.object({
  after: behind,
  limit: queryInteger(1, 1000).default(20),
  stream: z.enum(['true', 'false']).default('false'),
})

export function tuningSurface(options: TuningSurfaceOptions): Surface {
  return (app, context) => {
    void app.register(
      async (scope) => {
        scope.setErrorHandler(async (error, request, reply) => {
          const problem = problemFor(error, request.id)
          if (problem.status >= 500)
            context.log.error({ err: error, request: request.id, route: request.routeOptions.url }, 'failed')
          return await reply.status(problem.status).headers(problem.headers).send(problem.body)
        })
        const on = joiner(scope, context)
        fileRoutes(on, options)
        jobRoutes(on, options, context)
        newsRoutes(on, options)
        grantRoutes(on, { grants: new Grants(context.store), tunings: options.tunings }, context)
      },
      { prefix: '/v1' },
    )
  }
}

function fileRoutes(on: On, { files }: TuningSurfaceOptions): void {
  on('POST', '/files', 'dataset:create', async ({ project, request, audit }) => {
    const { body } = request
    if (!(body instanceof Readable))
      throw new Problem(415, 'unsupported_media_type', 'Send a form: content-type: multipart/form-data.')
    const row = await files.add(project.id, async (path) => {
      const { fields, filename } = await readForm(body, request.headers, path, formLimits)
      if (filename === undefined)
        throw new Problem(400, 'missing_required_parameter', 'file: The form has no file.', { param: 'file' })
      return { filename, purpose: checked(z.object({ purpose: z.enum(uploadPurposes) }), fields).purpose }
    })
    await audit('file.create', row.id)
    return viewOfFile(row)
  })
  on('GET', '/files', 'dataset:view', async ({ project, query }) => {
    const { order, limit, ...rest } = query(
      z.object({
        after: behind,
        limit: queryInteger(1, 10_000).default(10_000),
        order: z.enum(['asc', 'desc']).default('desc'),
        purpose: storableText(50).optional(),
      }),
    )
    const page = await files.list(project.id, {
      ...rest,
      limit: Math.min(limit, 1000),
      descending: order === 'desc',
    })
    return listOf(page.rows.map(viewOfFile), page.next !== undefined)
  })
  on('GET', '/files/:id', 'dataset:view', async ({ project, params }) =>
    viewOfFile(await files.get(project.id, params.id!)),
  )
  on('GET', '/files/:id/content', 'dataset:view', async ({ project, params, request, reply, standing }) => {
    const { stream, status, headers } = await files.content(project.id, params.id!, request.headers.range)
    const lasting = standing((refusal) => stream.destroy(refusal))
    return await reply
      .status(status ?? 200)
      .headers(headers)
      .send(bytesFor(lasting, stream))
  })
  on('DELETE', '/files/:id', 'dataset:delete', async ({ project, params, audit }) => {
    const row = await files.delete(project.id, params.id!)
    await audit('file.delete', row.id)
    return { id: shownId(row.id), object: 'file', deleted: true }
  })
}

function jobRoutes(on: On, { tunings }: TuningSurfaceOptions, { store }: ServiceContext): void {
  on('POST', '/fine_tuning/jobs', 'job:create', async ({ project, body, audit }) => {
    const organisation = (await organisationOf(store, project.organisationId))?.name ?? 'main'
    const row = await tunings.create(project, organisation, body(createTuning))
    await audit('tuning.create', row.id)
    return viewOfTuning({ row, job: undefined })
  })
  on('GET', '/fine_tuning/jobs', 'job:view', async ({ project, query, request }) => {
    const { limit, after } = query(pageQuery)
    const metadata = metadataIn(request.query as Record<string, unknown>)
    const page = await tunings.list(project.id, { limit, after, metadata })
    return listOf(page.rows.map(viewOfTuning), page.next !== undefined)
  })
  on('GET', '/fine_tuning/jobs/:id', 'job:view', async ({ project, params }) =>
    viewOfTuning(await tunings.get(project.id, params.id!)),
  )
  for (const verb of ['cancel', 'pause', 'resume'] as const) {
    on('POST', `/fine_tuning/jobs/:id/${verb}`, 'job:edit', async ({ project, params, audit }) => {
      const seen = await tunings[verb](project.id, params.id!)
      await audit(`tuning.${verb}`, seen.row.id)
      return viewOfTuning(seen)
    })
  }
}

/** `metadata[KEY]=VALUE`, as clients write it into a query. */
function metadataIn(query: Readonly<Record<string, unknown>>): Record<string, string> {
  const found = Object.entries(query).flatMap(([name, value]) => {
    const key = /^metadata\[(.{1,64})\]$/.exec(name)?.[1]
    return key === undefined || typeof value !== 'string' ? [] : [[key, value] as const]
  })
  return Object.fromEntries(found)
}

function newsRoutes(on: On, { tunings, checkpoints }: TuningSurfaceOptions): void {
  on(
    'GET',
    '/fine_tuning/jobs/:id/events',
    'job:view',
    async ({ project, params, query, reply, request, standing }) => {
      const { limit, after, stream } = query(eventQuery)
      const { row } = await tunings.get(project.id, params.id!)
      if (stream === 'true') {
        const lost = new AbortController()
        const gone = AbortSignal.any([goneSignal(reply.raw), lost.signal])
        const events = eventStream(tunings, project.id, params.id!, gone)
        const lastOf = (refusal: Refused) =>
          `data: ${JSON.stringify(problemFor(refusal, request.id).body)}\n\n`
        const lasting = standing(() => lost.abort())
        return await reply
          .header('content-type', 'text/event-stream; charset=utf-8')
          .header('cache-control', 'no-cache, no-transform')
          .send(Readable.from(eventsFor(lasting, events, lastOf)))
      }
      const cursor = after === undefined ? {} : { cursor: await eventCursor(tunings, row.id, eventId(after)) }
      const page = await eventsOf(tunings.nouns.store, row.id, { limit, descending: true, ...cursor })
      return listOf(page.rows.map(viewOfTuningEvent), page.next !== undefined)
    },
  )
  on('GET', '/fine_tuning/jobs/:id/checkpoints', 'job:view', async ({ project, params, query }) => {
    const { limit, after } = query(z.object({ after: behind, limit: queryInteger(1, 100).default(10) }))
    const { row } = await tunings.get(project.id, params.id!)
    const job = jobIdOf(row.id)
    const page = await checkpoints.nouns.list({
      project: project.id,
      where: (is) => is.and([is('job_id', '=', job)]),
      limit,
      descending: true,
      ...(after !== undefined && {
        cursor: await cursorBehind(checkpoints.nouns, project.id, checkpointId(after)),
      }),
    })
    const data = []
    for (const checkpoint of page.rows) {
      const metrics = await metricsAt(tunings.nouns.store, job, checkpoint.step)
      data.push(viewOfTuningCheckpoint(row, checkpoint, metrics))
    }
    return listOf(data, page.next !== undefined)
  })
}

function eventId(shown: string): string {
  return ownId(shown).replace(/^ftevent_/, 'event_')
}

function checkpointId(shown: string): string {
  return ownId(shown).replace(/^ftckpt_/, 'checkpoint_')
}

async function eventCursor({ nouns }: Tunings, subject: string, id: string): Promise<string> {
  if (await hasEvent(nouns.store, subject, id)) return cursorAt(id, true)
  throw noSuchPlace(id)
}

const followEveryMs = 500
const streamRows = 100

/** Events from the first on, as server-sent events, until the job is over. */
async function* eventStream(
  tunings: Tunings,
  project: string,
  shown: string,
  gone: AbortSignal,
): AsyncGenerator<string> {
  let cursor: string | undefined
  while (!gone.aborted) {
    const { row } = await tunings.get(project, shown)
    const page = await eventsOf(tunings.nouns.store, row.id, {
      limit: streamRows,
      ...(cursor !== undefined && { cursor }),
    })
    for (const event of page.rows) yield `data: ${JSON.stringify(viewOfTuningEvent(event))}\n\n`
    const last = page.rows.at(-1)
    if (last !== undefined) cursor = cursorAt(last.id, false)
    else if (row.state === 'done') return yield 'data: [DONE]\n\n'
    else {
      yield ': still here\n\n'
      await delay(followEveryMs)
    }
  }
}
