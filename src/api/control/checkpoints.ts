import { z } from 'zod'
import { placeLink } from './places.ts'

/** What kind of files a checkpoint has. */
export const checkpointFormats = ['safetensors', 'gguf', 'adapter', 'training', 'other'] as const
export type CheckpointFormat = (typeof checkpointFormats)[number]

/** Over how many ranks each way of splitting spread the tensors. */
export const parallelLayout = z.strictObject({
  data: z.int().min(1).max(100_000).default(1),
  tensor: z.int().min(1).max(10_000).default(1),
  pipeline: z.int().min(1).max(10_000).default(1),
  expert: z.int().min(1).max(10_000).default(1),
})

export const checkpointSource = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('upload') }),
  z.strictObject({ kind: z.literal('link'), link: placeLink }),
  z.strictObject({ kind: z.literal('job'), job: z.string() }),
])

export const checkpointSpec = z.strictObject({
  source: checkpointSource,
  format: z.enum(checkpointFormats),
  layout: parallelLayout,
  description: z.string().max(2000),
})

export type CheckpointSpec = z.output<typeof checkpointSpec>

/** By the names of its files. */
export function formatOf(paths: readonly string[]): CheckpointFormat {
  const has = (pattern: RegExp) => paths.some((path) => pattern.test(path))
  if (has(/(^|\/)(trainer|ropeway)\.json$/)) return 'training'
  if (has(/(^|\/)adapter_config\.json$/)) return 'adapter'
  if (has(/\.safetensors$/)) return 'safetensors'
  return has(/\.gguf$/) ? 'gguf' : 'other'
}
