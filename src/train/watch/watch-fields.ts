/** The field `watch` of a job file. */
import { z } from 'zod'

const address = z.url({ protocol: /^https?$/, error: 'it is no http or https address' })

export const watchFields = z.strictObject({
  /** Event files in OUT/tensorboard. */
  tensorboard: z.boolean().default(false),
  mlflow: z
    .strictObject({ url: address, experiment: z.string().min(1).max(200).default('ropeway') })
    .optional(),
  /** Offline files in OUT/wandb; `sync` hands them to the user's own `wandb sync` when the run ends. */
  wandb: z
    .strictObject({
      project: z.string().min(1).max(128),
      entity: z.string().min(1).max(128).optional(),
      /** Of the run; the job's without it. */
      name: z.string().min(1).max(128).optional(),
      tags: z.array(z.string().min(1).max(64)).max(50).optional(),
      sync: z.boolean().default(false),
    })
    .optional(),
  /** Address of an incoming web hook, or the environment variable that holds it. */
  web_hook: z
    .union([address, z.strictObject({ env: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/) })])
    .optional(),
})
