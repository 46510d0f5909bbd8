import { nounName } from '../../api/control/fields.ts'
import * as api from '../../api/control/models.ts'
import { Refused } from '../../api/control/problem.ts'
import { contentAnswer } from '../blobs/content.ts'
import { fileOf, filesPage } from '../blobs/pages.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Checkpoints } from './checkpoints.ts'
import { lineageOf } from './lineage.ts'
import type { Models, ResolvedModel } from './models.ts'
import type { Retention } from './retention.ts'
import type { CheckpointRow, ModelRow, ReleaseRow, RetentionRow } from './rows.ts'

export function checkpointRoutes(checkpoints: Checkpoints): RouteModule {
  return (serve, { store }) => {
    serve(api.listCheckpoints, async ({ project, query }) => {
      const { job } = query
      const page = await checkpoints.nouns.list({
        project: project.id,
        deleted: query.deleted === 'true',
        descending: true,
        ...(job !== undefined && {
          where: (is) => is.and([is.or([is('job_id', '=', job), is('job_name', '=', job)])]),
        }),
        ...pageAsked(query),
      })
      return pageAnswer(page, checkpointOf)
    })
    serve(api.viewCheckpoint, async ({ project, params }) =>
      checkpointOf(await checkpoints.find(project.id, params.checkpoint)),
    )
    serve(api.createCheckpoint, ({ project, body, audit }) =>
      store.transaction(async () => {
        const made = await checkpoints.add(project.id, body)
        await audit('checkpoint.create', made.id, { name: made.name })
        return checkpointOf(made)
      }),
    )
    serve(api.linkCheckpoint, async ({ project, body: { link, ...given }, audit }) => {
      const made = await checkpoints.link(project.id, given, link)
      await audit('checkpoint.link', made.id, { name: made.name, url: link.url })
      return checkpointOf(made)
    })
    serve(api.checkpointFiles, async ({ project, params, query }) =>
      filesPage(store, (await checkpoints.find(project.id, params.checkpoint)).id, query),
    )
    serve(api.checkpointContent, async ({ project, params, query, headers }) => {
      const row = await checkpoints.find(project.id, params.checkpoint)
      const file = await fileOf(store, row.id, query.path)
      return await contentAnswer(await checkpoints.placeOf(row, file), file, headers.range)
    })
    serve(api.checkpointLineage, async ({ project, params }) => {
      const { id } = await checkpoints.find(project.id, params.checkpoint)
      return { edges: await lineageOf(store, project.id, id) }
    })
    serve(api.deleteCheckpoint, ({ project, params, audit }) =>
      store.transaction(async () => {
        const row = await checkpoints.find(project.id, params.checkpoint)
        await checkpoints.delete(row)
        await audit('checkpoint.delete', row.id, { name: row.name })
      }),
    )
    serve(api.restoreCheckpoint, ({ project, params, audit }) =>
      store.transaction(async () => {
        const row = await checkpoints.restore(project.id, params.checkpoint)
        await audit('checkpoint.restore', row.id, { name: row.name })
        return checkpointOf(row)
      }),
    )
  }
}

export function modelRoutes(models: Models, checkpoints: Checkpoints): RouteModule {
  return (serve, { store }) => {
    serve(api.listModels, async ({ project, query }) => {
      const asked = {
        project: project.id,
        deleted: query.deleted === 'true',
        sort: 'name',
        ...pageAsked(query),
      }
      return pageAnswer(await models.nouns.list(asked), modelOf)
    })
    serve(api.viewModel, async ({ project, params }) =>
      viewOf(await models.resolve(project.id, params.model)),
    )
    serve(api.listReleases, async ({ project, params, query }) => {
      const model = await models.find(project.id, params.model)
      return pageAnswer(await models.releases(model, pageAsked(query)), releaseOf)
    })
    serve(api.promote, ({ project, params, body, audit }) =>
      store.transaction(async () => {
        const checkpoint = await checkpoints.find(project.id, body.checkpoint)
        const made = await models.promote(project.id, checkpoint, { ...body, model: newName(params.model) })
        const { number } = made.release
        await audit('model.promote', made.model.id, {
          name: made.model.name,
          number,
          alias: body.alias ?? null,
        })
        return viewOf(made)
      }),
    )
    serve(api.setAlias, ({ project, params, body, audit }) =>
      store.transaction(async () => {
        const model = await models.find(project.id, params.model)
        const changed = await models.setAlias(model, newName(params.alias), body.version)
        await audit('model.set-alias', model.id, {
          name: model.name,
          alias: params.alias,
          version: body.version,
        })
        return modelOf(changed)
      }),
    )
    serve(api.removeAlias, ({ project, params, audit }) =>
      store.transaction(async () => {
        const model = await models.find(project.id, params.model)
        const changed = await models.setAlias(model, params.alias, undefined)
        await audit('model.remove-alias', model.id, { name: model.name, alias: params.alias })
        return modelOf(changed)
      }),
    )
    serve(api.modelLineage, async ({ project, params }) => {
      const { release } = await models.resolve(project.id, params.model)
      return { edges: await lineageOf(store, project.id, release.id) }
    })
    serve(api.deleteModel, ({ project, params, audit }) =>
      store.transaction(async () => {
        const model = await models.find(project.id, params.model)
        await models.delete(model)
        await audit('model.delete', model.id, { name: model.name })
      }),
    )
    serve(api.restoreModel, ({ project, params, audit }) =>
      store.transaction(async () => {
        const model = await models.restore(project.id, params.model)
        await audit('model.restore', model.id, { name: model.name })
        return modelOf(model)
      }),
    )
  }
}

export function retentionRoutes(retention: Retention): RouteModule {
  return (serve, { store }) => {
    serve(api.listRetention, async ({ project, query }) =>
      pageAnswer(
        await retention.nouns.list({ project: project.id, sort: 'name', ...pageAsked(query) }),
        ruleOf,
      ),
    )
    serve(api.setRetention, ({ project, params, body, audit }) =>
      store.transaction(async () => {
        const row = await retention.set(project.id, newName(params.rule), body)
        await audit('retention.set', row.id, { name: row.name, rule: row.spec })
        return ruleOf(row)
      }),
    )
    serve(api.deleteRetention, ({ project, params, audit }) =>
      store.transaction(async () => {
        const row = await retention.nouns.named(project.id, params.rule)
        if (row === undefined) throw new Refused('not_found', `There is no rule ${params.rule}.`)
        await retention.nouns.purge(row.id)
        await audit('retention.delete', row.id, { name: row.name })
      }),
    )
  }
}

/** What makes something names it whole, never by its beginning. */
function newName(text: string): string {
  const parsed = nounName.safeParse(text)
  if (parsed.success) return parsed.data
  throw new Refused('invalid_request', parsed.error.issues[0]!.message)
}

function checkpointOf(row: CheckpointRow) {
  const { id, name, spec, status, step, job_id, job_name, digest, bytes, files, created_at, deleted_at } = row
  const { description, source, format, layout } = spec
  const job = job_id === null ? null : { id: job_id, name: job_name ?? '' }
  return {
    ...{ id, name, description, source, format, layout, step, job, metrics: { ...status.metrics } },
    ...{ digest, bytes, files, created_at, deleted_at },
  }
}

function modelOf({ id, name, latest, status, created_at, updated_at, deleted_at }: ModelRow) {
  return { id, name, latest, aliases: { ...status.aliases }, created_at, updated_at, deleted_at }
}

function releaseOf({ id, number, checkpoint_id: checkpoint, message, created_at }: ReleaseRow) {
  return { id, number, checkpoint, message, created_at }
}

function viewOf({ model, release, checkpoint }: ResolvedModel) {
  return { ...modelOf(model), version: releaseOf(release), checkpoint: checkpointOf(checkpoint) }
}

function ruleOf({ name, spec, updated_at }: RetentionRow) {
  return { name, rule: spec, updated_at }
}
