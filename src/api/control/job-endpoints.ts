import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { pageOf, pageQuery, queryFlag, queryInteger, storableText } from './fields.ts'
import {
  artifactView,
  createJob,
  deviceType,
  jobEventView,
  jobStateNames,
  jobView,
  metricPoint,
  metricSummary,
  placeName,
} from './jobs.ts'

const stepMax = Number.MAX_SAFE_INTEGER
const one = '/projects/:project/jobs/:job'

export const listJobs = endpoint({
  name: 'jobs.list',
  method: 'GET',
  path: '/projects/:project/jobs',
  summary: 'Jobs of a project, the newest first.',
  access: 'job:view',
  query: pageQuery.extend({
    /** Several are separated by commas. */
    state: z
      .string()
      .max(200)
      .transform((text) => text.split(','))
      .pipe(z.array(z.enum(jobStateNames)))
      .optional(),
    /** The beginning of the name. */
    name: storableText(63, 1).optional(),
    device: deviceType.optional(),
    /** Where it runs, or where alone it may run. */
    cluster: placeName.optional(),
    /** Created then or later, in Unix milliseconds. */
    since: queryInteger(0, stepMax).optional(),
  }),
  answer: pageOf(jobView),
})

export const createJobEndpoint = endpoint({
  name: 'jobs.create',
  method: 'POST',
  once: true,
  path: '/projects/:project/jobs',
  summary: 'Run a job file: our trainer, or any command.',
  access: 'job:create',
  body: createJob,
  answer: jobView,
})

export const viewJob = endpoint({
  name: 'jobs.view',
  method: 'GET',
  path: one,
  summary: 'One job, by name, id, or the beginning of either.',
  access: 'job:view',
  answer: jobView,
})

export const watchJob = endpoint({
  name: 'jobs.watch',
  method: 'GET',
  path: `${one}/watch`,
  summary: 'The job, again whenever it changes, until it is at rest.',
  access: 'job:view',
  answer: 'events',
})

export const stopJob = endpoint({
  name: 'jobs.stop',
  method: 'POST',
  path: `${one}/stop`,
  summary: 'Ask a job to save and to end; it is killed after its grace.',
  access: 'job:edit',
  answer: jobView,
})

export const saveJob = endpoint({
  name: 'jobs.save',
  method: 'POST',
  path: `${one}/save`,
  summary: 'Ask a running job for a checkpoint within its step; it goes on.',
  access: 'job:edit',
  answer: jobView,
})

export const resumeJob = endpoint({
  name: 'jobs.resume',
  method: 'POST',
  once: true,
  path: `${one}/resume`,
  summary: 'Let a stopped job go on from its newest checkpoint.',
  access: 'job:edit',
  answer: jobView,
})

export const retryJob = endpoint({
  name: 'jobs.retry',
  method: 'POST',
  once: true,
  path: `${one}/retry`,
  summary: 'Give a failed or stopped job its retries anew.',
  access: 'job:edit',
  answer: jobView,
})

export const deleteJob = endpoint({
  name: 'jobs.delete',
  method: 'DELETE',
  path: one,
  summary: 'Delete a job that is at rest; its files go a day later.',
  access: 'job:delete',
  answer: 'nothing',
})

export const listJobEvents = endpoint({
  name: 'jobs.events',
  method: 'GET',
  path: `${one}/events`,
  summary: 'What happened to a job and why, the oldest first.',
  access: 'job:view',
  query: pageQuery,
  answer: pageOf(jobEventView),
})

export const readJobLog = endpoint({
  name: 'jobs.logs',
  method: 'GET',
  path: `${one}/logs`,
  summary: 'Lines that its ranks printed; with follow, also those to come.',
  access: 'job:view',
  query: z.strictObject({
    attempt: queryInteger(1, 1_000_000).optional(),
    rank: queryInteger(0, 100_000).optional(),
    contains: storableText(1000, 1).optional(),
    /** Unix milliseconds. */
    since: queryInteger(0, stepMax).optional(),
    stream: z.enum(['out', 'err']).optional(),
    /** Only so many of the first lines that pass. */
    head: queryInteger(1, 1_000_000).optional(),
    follow: queryFlag.optional(),
  }),
  answer: 'events',
})

export const listJobMetrics = endpoint({
  name: 'jobs.metrics',
  method: 'GET',
  path: `${one}/metrics`,
  summary: 'Which metrics a job has reported.',
  access: 'job:view',
  answer: z.object({ items: z.array(metricSummary) }),
})

export const readJobMetric = endpoint({
  name: 'jobs.metric',
  method: 'GET',
  path: `${one}/metrics/points`,
  summary: 'The points of one metric behind a step, ascending.',
  access: 'job:view',
  query: z.strictObject({
    name: storableText(100, 1),
    after: queryInteger(-1, stepMax).default(-1),
    limit: queryInteger(1, 10_000).default(5_000),
  }),
  answer: z.object({ items: z.array(metricPoint) }),
})

export const listJobArtifacts = endpoint({
  name: 'jobs.artifacts',
  method: 'GET',
  path: `${one}/artifacts`,
  summary: 'Files in the output folder of a job.',
  access: 'job:view',
  answer: z.object({ items: z.array(artifactView) }),
})

export const readJobArtifact = endpoint({
  name: 'jobs.artifact',
  method: 'GET',
  path: `${one}/artifacts/content`,
  summary: 'The content of one file in the output folder of a job, or the range that the header Range names.',
  access: 'job:view',
  query: z.strictObject({ path: storableText(4096, 1) }),
  answer: 'bytes',
})
