import * as api from '../../api/control/datasets.ts'
import { nounName } from '../../api/control/fields.ts'
import { Refused } from '../../api/control/problem.ts'
import { contentAnswer } from '../blobs/content.ts'
import { fileOf, filesPage } from '../blobs/pages.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Datasets, Resolved } from './datasets.ts'
import { preview, type RecordReader, statisticsOf } from './preview.ts'
import type { DatasetRow, VersionRow } from './rows.ts'

export function datasetRoutes(datasets: Datasets, read: RecordReader): RouteModule {
  return (serve, { store }) => {
    serve(api.listDatasets, async ({ project, query }) => {
      const asked = {
        project: project.id,
        deleted: query.deleted === 'true',
        sort: 'name',
        ...pageAsked(query),
      }
      return pageAnswer(await datasets.nouns.list(asked), itemOf)
    })
    serve(api.viewDataset, async ({ project, params }) =>
      viewOf(await datasets.resolve(project.id, params.dataset)),
    )
    serve(api.addVersion, ({ project, params, body, audit }) =>
      store.transaction(async () => {
        const made = await datasets.addVersion(project.id, newName(params.dataset), body)
        await audit('dataset.add-version', made.dataset.id, {
          name: made.dataset.name,
          number: made.version.number,
        })
        return viewOf(made)
      }),
    )
    serve(api.linkDataset, async ({ project, params, body, audit }) => {
      const made = await datasets.link(project.id, newName(params.dataset), body.link, body.message)
      await audit('dataset.link', made.dataset.id, { name: made.dataset.name, url: body.link.url })
      return viewOf(made)
    })
    serve(api.refreshDataset, async ({ project, params }) =>
      viewOf(await datasets.refresh(project.id, (await datasets.find(project.id, params.dataset)).name)),
    )
    serve(api.listVersions, async ({ project, params, query }) => {
      const dataset = await datasets.find(project.id, params.dataset)
      return pageAnswer(await datasets.versions(dataset, pageAsked(query)), versionOf)
    })
    serve(api.listFiles, async ({ project, params, query }) => {
      const { version } = await datasets.resolve(project.id, params.dataset)
      return await filesPage(store, version.id, query)
    })
    serve(api.readFile, async ({ project, params, query, headers }) => {
      const { version } = await datasets.resolve(project.id, params.dataset)
      const file = await fileOf(store, version.id, query.path)
      return await contentAnswer(await datasets.placeOf(version, file), file, headers.range)
    })
    serve(api.previewDataset, async ({ project, params, query }) => {
      const { version } = await datasets.resolve(project.id, params.dataset)
      return await preview(datasets, read, version, query)
    })
    serve(api.datasetStatistics, async ({ project, params }) => {
      const { version } = await datasets.resolve(project.id, params.dataset)
      return await statisticsOf(datasets, read, version)
    })
    serve(api.editDataset, ({ project, params, body, audit }) =>
      store.transaction(async () => {
        const edited = await datasets.edit(await datasets.find(project.id, params.dataset), body)
        await audit('dataset.edit', edited.id, { ...body })
        return itemOf(edited)
      }),
    )
    serve(api.deleteDataset, ({ project, params, audit }) =>
      store.transaction(async () => {
        const dataset = await datasets.find(project.id, params.dataset)
        await datasets.delete(dataset)
        await audit('dataset.delete', dataset.id, { name: dataset.name })
      }),
    )
    serve(api.restoreDataset, ({ project, params, audit }) =>
      store.transaction(async () => {
        const dataset = await datasets.restore(project.id, params.dataset)
        await audit('dataset.restore', dataset.id, { name: dataset.name })
        return itemOf(dataset)
      }),
    )
  }
}

/** What makes a dataset names it whole, never by its beginning. */
function newName(text: string): string {
  const parsed = nounName.safeParse(text)
  if (parsed.success) return parsed.data
  throw new Refused('invalid_request', parsed.error.issues[0]!.message, { param: 'dataset' })
}

function itemOf({ id, name, spec, latest, created_at, updated_at, deleted_at }: DatasetRow) {
  return { id, name, description: spec.description, latest, created_at, updated_at, deleted_at }
}

function versionOf(row: VersionRow) {
  const { id, number, digest, bytes, files, message, link_json: link, created_at } = row
  return { id, number, digest, bytes, files, message, link, created_at }
}

function viewOf({ dataset, version }: Resolved) {
  return { ...itemOf(dataset), version: versionOf(version) }
}
