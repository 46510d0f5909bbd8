/** What programs report, line by line, and how it is read while they write. */

import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { z } from 'zod'
import { jsonOf } from '../../base/json.ts'
import { storable } from '../store/values.ts'

/** JSON has no NaN; these are how programs write it. */
const value = z.union([z.number(), z.enum(['NaN', 'nan', 'Infinity', 'inf', '-Infinity', '-inf'])])
const metricsMax = 200
export const textCharactersMax = 10_000
const text = z.string().max(textCharactersMax).transform(storable)
const at = z.int().min(0)
const step = z.int().min(0)

export const contractEvent = z.discriminatedUnion('event', [
  z.object({ event: z.literal('start'), t: at, total_steps: step, steps_done: step, rank: z.int().min(0) }),
  z.object({ event: z.literal('heartbeat'), t: at, step, step_ms: z.number().min(0) }),
  z.object({
    event: z.literal('metrics'),
    t: at,
    step,
    values: z
      .record(z.string().max(100).transform(storable), value)
      .refine((values) => Object.keys(values).length <= metricsMax, `at most ${metricsMax} metrics at once`),
  }),
  z.object({
    event: z.literal('checkpoint'),
    t: at,
    step,
    /** Below the output folder. */
    folder: z.string().regex(/^checkpoints\/step-\d{6,}$/),
  }),
  z.object({ event: z.literal('note'), t: at, text }),
  /** Why it ends with a failure; `final` when the same again would end the same. */
  z.object({
    event: z.literal('failure'),
    t: at,
    text,
    final: z.boolean().default(false),
  }),
])
export type ContractEvent = z.output<typeof contractEvent>

const pieceBytesMax = 1 << 20

export interface EventPage {
  events: ContractEvent[]
  /** Give it with the next call. */
  offset: number
  /** Lines that are no events of the contract. */
  rejected: number
}

/** Whole lines from byte `offset` on, at most a megabyte of them. A missing file is one that was not begun yet. */
export function readEvents(path: string, offset: number): EventPage {
  const bytes = readFrom(path, offset)
  const end = bytes.lastIndexOf(10) + 1
  const isTooLong = end === 0 && bytes.length === pieceBytesMax
  const taken = isTooLong ? bytes.length : end
  const page: EventPage = { events: [], offset: offset + taken, rejected: isTooLong ? 1 : 0 }
  for (const line of bytes.subarray(0, end).toString('utf8').split('\n')) {
    if (line === '') continue
    const event = parseEvent(line)
    if (event === undefined) page.rejected++
    else page.events.push(event)
  }
  return page
}

function parseEvent(line: string): ContractEvent | undefined {
  return contractEvent.safeParse(jsonOf(line)).data
}

function readFrom(path: string, offset: number): Buffer {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return Buffer.alloc(0)
    throw error
  }
  try {
    const buffer = Buffer.alloc(Math.max(0, Math.min(pieceBytesMax, fstatSync(file).size - offset)))
    return buffer.subarray(0, readSync(file, buffer, 0, buffer.length, offset))
  } finally {
    closeSync(file)
  }
}
