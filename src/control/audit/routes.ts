import { listOrganisationAudit, listProjectAudit } from '../../api/control/audit.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import { type AuditRow, listAudit } from './audit.ts'

export const auditRoutes: RouteModule = (serve, { store }) => {
  serve(listProjectAudit, async ({ project, query }) =>
    pageAnswer(
      await listAudit(store, { project_id: project.id }, { ...pageAsked(query), descending: true }),
      view,
    ),
  )
  serve(listOrganisationAudit, async ({ organisation, query }) =>
    pageAnswer(
      await listAudit(store, { organisation_id: organisation.id }, { ...pageAsked(query), descending: true }),
      view,
    ),
  )
}

function view(row: AuditRow) {
  const { id, at, person_id: person, actor_id: actor, action, subject, address, request_id, details } = row
  return { id, at, person, actor, action, subject, address, request_id, details }
}
