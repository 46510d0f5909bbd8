import * as api from '../../api/control/job-templates.ts'
import { Refused } from '../../api/control/problem.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Jobs } from './jobs.ts'
import { deleteTemplate, findTemplate, listTemplates, saveTemplate, type TemplateRow } from './templates.ts'

export function templateRoutes(jobs: Jobs): RouteModule {
  return (serve, { store }) => {
    serve(api.listTemplates, async ({ project, query }) =>
      pageAnswer(await listTemplates(store, project.id, pageAsked(query)), viewOf),
    )
    serve(api.viewTemplate, async ({ project, params }) =>
      viewOf(await findTemplate(store, project.id, params.template)),
    )
    serve(api.saveTemplate, async ({ project, params, body, audit }) => {
      const name = api.templateName.safeParse(params.template)
      if (!name.success) throw new Refused('invalid_request', `${params.template} cannot name a template.`)
      // A template that no job could be made of is of no use.
      const { version, ...given } = body
      await jobs.check(project.id, given)
      const spec = { file: given.file, ...(given.workspace !== undefined && { workspace: given.workspace }) }
      const row = await saveTemplate(store, project.id, name.data, spec, version)
      await audit('job-template.save', row.id, { name: row.name })
      return viewOf(row)
    })
    serve(api.deleteTemplate, async ({ project, params, audit }) => {
      await audit('job-template.delete', await deleteTemplate(store, project.id, params.template))
    })
  }
}

function viewOf({ id, name, version, created_at, updated_at, spec }: TemplateRow) {
  return {
    id,
    name,
    version,
    created_at,
    updated_at,
    file: { ...spec.file },
    workspace: spec.workspace ?? null,
  }
}
