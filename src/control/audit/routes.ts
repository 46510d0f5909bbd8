import { listOrganisationAudit, listProjectAudit, listServiceAudit } from '../../api/control/audit.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import { type AuditRow, listAudit } from './audit.ts'

export const auditRoutes: RouteModule = (serve, { store }) => {
  const answer = async (of: Parameters<typeof listAudit>[1], query: Parameters<typeof pageAsked>[0]) =>
    pageAnswer(await listAudit(store, of, { ...pageAsked(query), descending: true }), view)
  serve(listProjectAudit, async ({ project, query }) => await answer({ project_id: project.id }, query))
  serve(
    listOrganisationAudit,
    async ({ organisation, query }) => await answer({ organisation_id: organisation.id }, query),
  )
  serve(listServiceAudit, async ({ query }) => await answer('everywhere', query))
}

function view(row: AuditRow) {
  const { organisation_id: organisation, project_id: project, person_id: person, actor_id: actor } = row
  const { id, at, action, subject, address, request_id, details } = row
  return { id, at, organisation, project, person, actor, action, subject, address, request_id, details }
}
