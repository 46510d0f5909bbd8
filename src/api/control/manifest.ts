/** What `ropeway apply -f` takes: documents of YAML, each of which says how one thing should be. */
import { z } from 'zod'
import { parallelLayout } from './checkpoints.ts'
import { nounName, storableText } from './fields.ts'
import { placeLink } from './places.ts'
import { retentionSpec } from './retention.ts'

const paths = z.array(z.string().min(1).max(4096)).min(1).max(1000)

/** Files, or folders with all in them, as paths from the file that names them. */
const content = { files: paths.optional(), link: placeLink.optional() }

export const datasetManifest = z.strictObject({
  kind: z.literal('dataset'),
  name: nounName,
  description: storableText(2000).optional(),
  ...content,
})

export const checkpointManifest = z.strictObject({
  kind: z.literal('checkpoint'),
  name: nounName,
  description: storableText(2000).optional(),
  step: z.int().min(0).default(0),
  layout: parallelLayout.prefault({}),
  ...content,
})

export const modelManifest = z.strictObject({
  kind: z.literal('model'),
  name: nounName,
  /** Its name, or JOB@STEP. */
  checkpoint: storableText(200, 1),
  alias: nounName.optional(),
})

export const retentionManifest = retentionSpec.extend({ kind: z.literal('retention'), name: nounName })

export const manifest = z.discriminatedUnion('kind', [
  datasetManifest,
  checkpointManifest,
  modelManifest,
  retentionManifest,
])

export type Manifest = z.output<typeof manifest>
export type ManifestOf<Kind extends Manifest['kind']> = Extract<Manifest, { kind: Kind }>
