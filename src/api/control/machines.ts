/** Clusters with their devices, and quotas, as they go over the wire. */
import { z } from 'zod'
import { devicesMax, deviceType } from './jobs.ts'

export const clusterSpec = z.strictObject({
  kind: z.literal('local'),
  /** Devices by type. */
  slots: z.record(deviceType, z.int().min(0).max(devicesMax)),
  /** False while it takes no new jobs. */
  open: z.boolean().default(true),
})
export type ClusterSpec = z.output<typeof clusterSpec>

export const clusterView = clusterSpec.extend({
  id: z.string(),
  name: z.string(),
  version: z.int(),
  /** By type: what jobs have now. */
  used: z.record(z.string(), z.int()),
  /** When its server last said that it is there (Unix milliseconds); null when none ever did. */
  last_seen_at: z.int().nullable(),
  /** Silent for so long that it gets no new jobs. */
  gone: z.boolean(),
})

export const quotaView = z.object({
  id: z.string(),
  project: z.string(),
  device: deviceType,
  devices: z.int().min(0).max(100_000),
  used: z.int(),
  version: z.int(),
})
