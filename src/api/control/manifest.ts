/** What `ropeway apply -f` takes: documents of YAML, each of which says how one thing should be. */
import { z } from 'zod'
import { parallelLayout } from './checkpoints.ts'
import { deploymentInput } from './deployments.ts'
import { nounName, storableText } from './fields.ts'
import { createJob, deviceType, placeName } from './jobs.ts'
import { keyFields } from './keys.ts'
import { clusterSpec, quotaView } from './machines.ts'
import { email } from './people.ts'
import { projectRoles } from './permissions.ts'
import { placeLink } from './places.ts'
import { retentionSpec } from './retention.ts'

const path = z.string().min(1).max(4096)
const paths = z.array(path).min(1).max(1000)

/** The project that a thing belongs to, where it is not that of the command line. */
const inProject = { project: storableText(100, 1).optional() }

/** Files, or folders with all in them, as paths from the file that names them. */
const content = { files: paths.optional(), link: placeLink.optional() }

export const projectManifest = z.strictObject({
  kind: z.literal('project'),
  name: nounName,
  title: storableText(200).optional(),
  /** Needed for a new project of somebody who is in several. */
  organisation: storableText(100, 1).optional(),
  /** Who is not named stays as they are. */
  members: z
    .array(z.strictObject({ email, role: z.enum(projectRoles) }))
    .max(500)
    .optional(),
})

export const clusterManifest = clusterSpec.extend({
  kind: z.literal('cluster'),
  name: placeName,
})

export const quotaManifest = z.strictObject({
  kind: z.literal('quota'),
  /** The type of devices. */
  name: deviceType,
  devices: quotaView.shape.devices,
  ...inProject,
})

/** A key is known by its name; it is shown once, when it is made. */
export const keyManifest = z.strictObject({ kind: z.literal('key'), ...keyFields, ...inProject })

export const datasetManifest = z.strictObject({
  kind: z.literal('dataset'),
  name: nounName,
  description: storableText(2000).optional(),
  ...content,
  ...inProject,
})

export const checkpointManifest = z.strictObject({
  kind: z.literal('checkpoint'),
  name: nounName,
  description: storableText(2000).optional(),
  step: z.int().min(0).default(0),
  layout: parallelLayout.prefault({}),
  ...content,
  ...inProject,
})

export const modelManifest = z.strictObject({
  kind: z.literal('model'),
  name: nounName,
  /** Its name, or JOB@STEP. */
  checkpoint: storableText(200, 1),
  alias: nounName.optional(),
  ...inProject,
})

export const retentionManifest = retentionSpec.extend({
  kind: z.literal('retention'),
  name: nounName,
  ...inProject,
})

/** A job file: beside this one, with the folder that it lies in, or in this one, with a folder or none. */
const work = {
  name: placeName,
  file: path.optional(),
  spec: createJob.shape.file.optional(),
  /** The folder that is sent along. */
  workspace: path.optional(),
  ...inProject,
}

export const templateManifest = z.strictObject({ kind: z.literal('template'), ...work })

/** A job that was made is never changed: a file that says something else makes another one of the same name. */
export const jobManifest = z.strictObject({ kind: z.literal('job'), ...work })

export const deploymentManifest = deploymentInput.extend({ kind: z.literal('deployment'), ...inProject })

/** In the order in which they are made: each may need those before it. */
export const manifests = [
  clusterManifest,
  projectManifest,
  quotaManifest,
  retentionManifest,
  datasetManifest,
  checkpointManifest,
  modelManifest,
  templateManifest,
  jobManifest,
  deploymentManifest,
  keyManifest,
] as const

export const manifest = z.discriminatedUnion('kind', manifests)

export const manifestKinds = manifests.map(({ shape }) => shape.kind.value)

export type Manifest = z.output<typeof manifest>
export type ManifestOf<Kind extends Manifest['kind']> = Extract<Manifest, { kind: Kind }>
