/** The field `publish` of a job file. */
import { z } from 'zod'

export const publishFields = z.strictObject({
  /** Name under which the adapter answers; `NAME:latest` is its newest version. */
  deployment: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, 'it is no name for an adapter'),
  /** Steps between two publications, also as `200 steps`. */
  every: z
    .union([
      z.int().min(1),
      z
        .string()
        .regex(/^[1-9]\d{0,9} steps?$/)
        .transform((text) => Number.parseInt(text, 10)),
    ])
    .default(200),
  /**
   * Address of the engine, which serves the base and was started with --adapter-root over the job's folder. Without it
   * the service that runs the job publishes to its deployment of this name; elsewhere it is the engine on port 8000.
   */
  to: z.url({ protocol: /^https?$/, error: 'it is no http or https address' }).optional(),
})

export type PublishFields = z.output<typeof publishFields>
