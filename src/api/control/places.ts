import { z } from 'zod'

/** A folder or bucket of somebody's, which is read and never written to. */
export const placeLink = z.strictObject({
  /** `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, `hf://ORG/NAME@REVISION`, or `file:///FOLDER` of the machine of the service. */
  url: z.string().min(1).max(2000),
  /** Name of a credential of the project. */
  credential: z.string().max(63).optional(),
  /** Of an S3 service that is not Amazon's, or of a mirror of the hub. */
  endpoint: z.string().max(2000).optional(),
  region: z.string().max(63).optional(),
})

export type PlaceLink = z.output<typeof placeLink>
