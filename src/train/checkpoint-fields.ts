import { z } from 'zod'

const count = z.int().min(1)

/** `checkpoint` of a job file: how many steps lie between two, and how many of the newest stay beside the best. */
export const checkpointFields = z.strictObject({ every: count.default(250), keep: count.default(2) })
