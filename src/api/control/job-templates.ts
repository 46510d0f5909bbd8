import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { expectedVersion, pageOf, pageQuery } from './fields.ts'
import { createJob, placeName } from './jobs.ts'

export const templateView = z.object({
  id: z.string(),
  name: z.string(),
  version: z.int(),
  created_at: z.int(),
  updated_at: z.int(),
  file: z.record(z.string(), z.unknown()),
  workspace: z.string().nullable(),
})

const one = '/projects/:project/job-templates/:template'

export const listTemplates = endpoint({
  name: 'job-templates.list',
  method: 'GET',
  path: '/projects/:project/job-templates',
  summary: 'Job files that the project keeps under a name.',
  access: 'job:view',
  query: pageQuery,
  answer: pageOf(templateView),
})

export const viewTemplate = endpoint({
  name: 'job-templates.view',
  method: 'GET',
  path: one,
  summary: 'One template.',
  access: 'job:view',
  answer: templateView,
})

export const saveTemplate = endpoint({
  name: 'job-templates.save',
  method: 'PUT',
  path: one,
  summary: 'Keep a job file under a name, instead of what was there.',
  access: 'job:create',
  body: createJob.pick({ file: true, workspace: true }).extend({ version: expectedVersion }),
  answer: templateView,
})

export const deleteTemplate = endpoint({
  name: 'job-templates.delete',
  method: 'DELETE',
  path: one,
  summary: 'Forget a template; jobs that were made of it are not touched.',
  access: 'job:delete',
  answer: 'nothing',
})

export const templateName = placeName
