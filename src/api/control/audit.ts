import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { nounId, pageOf, pageQuery, time } from './fields.ts'

export const auditEntry = z.object({
  id: nounId,
  at: time,
  /** Where; null for what is of no project, or of the whole service. */
  organisation: nounId.nullable(),
  project: nounId.nullable(),
  /** Who, and the session or key they used. */
  person: nounId.nullable(),
  actor: nounId.nullable(),
  /** Noun and verb: `key.create`. */
  action: z.string(),
  subject: z.string(),
  address: z.string(),
  request_id: z.string(),
  details: z.record(z.string(), z.unknown()),
})

export const listProjectAudit = endpoint({
  name: 'audit.list',
  method: 'GET',
  path: '/projects/:project/audit',
  summary: 'Who did what in a project; newest first.',
  access: 'audit:view',
  query: pageQuery,
  answer: pageOf(auditEntry),
})

export const listOrganisationAudit = endpoint({
  name: 'organisation-audit.list',
  method: 'GET',
  path: '/organisations/:organisation/audit',
  summary: 'Who did what in an organisation and its projects; newest first.',
  access: 'organisation:edit',
  query: pageQuery,
  answer: pageOf(auditEntry),
})

export const listServiceAudit = endpoint({
  name: 'service-audit.list',
  method: 'GET',
  path: '/audit',
  summary: 'Who did what anywhere in the service, also to accounts, prices and clusters; newest first.',
  access: 'operator',
  query: pageQuery,
  answer: pageOf(auditEntry),
})
