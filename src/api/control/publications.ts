/** What trainings have published to a deployment. */
import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { time } from './fields.ts'

const published = z.object({
  /** As answers name it: `NAME:latest@7`. */
  name: z.string(),
  checkpoint: z.string(),
  job: z.string(),
  step: z.int(),
  at: time,
})

export const publicationView = z.object({
  /** What clients ask for: `NAME:latest`. */
  name: z.string(),
  current: published,
  /** What a rollback gives to new requests. */
  previous: published.nullable(),
})
export type PublicationView = z.output<typeof publicationView>

const path = '/projects/:project/deployments/:deployment/latest'

export const viewPublication = endpoint({
  name: 'deployments.latest',
  method: 'GET',
  path,
  summary: 'The adapter that a training published last, which answers as NAME:latest.',
  access: 'deployment:view',
  answer: publicationView,
})

export const rollbackPublication = endpoint({
  name: 'deployments.latest-rollback',
  method: 'POST',
  path: `${path}/rollback`,
  summary: 'Give new requests of NAME:latest the version before; again, and they get the later one.',
  access: 'deployment:edit',
  answer: publicationView,
})
