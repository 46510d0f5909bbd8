/** A job that is any command (`run:`): what its file says, checked field by field. */
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { splitCommandLine } from './command-line.ts'

const argumentsMax = 1000
const argumentCharactersMax = 100_000
const variablesMax = 200
export const processesMax = 256

const argument = z
  .string()
  .max(argumentCharactersMax)
  .refine((text) => !text.includes('\0'), 'it holds a zero byte')

/** A program and its arguments: as a list, or as a line that is cut at spaces and never sees a shell. */
const command = z.union([
  z.array(argument).min(1).max(argumentsMax),
  argument.transform((line, context) => {
    const split = splitCommandLine(line)
    if (split.ok) return split.parts
    context.addIssue({ code: 'custom', message: `the command ${split.reason}` })
    return z.NEVER
  }),
])

/** Names that the contract gives itself. */
const reserved =
  /^(ROPEWAY_.*|MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK|LOCAL_RANK|LOCAL_WORLD_SIZE|NODE_RANK)$/

const environment = z
  .record(
    z
      .string()
      .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'it is no name of a variable')
      .refine((name) => !reserved.test(name), 'Ropeway sets this variable itself'),
    z.union([argument, z.number().transform(String), z.boolean().transform(String)]),
  )
  .refine((variables) => Object.keys(variables).length <= variablesMax, `at most ${variablesMax} variables`)

const units = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** `30s`, `10m`, `2h`, `1d`: milliseconds. A bare number is seconds. */
export const durationMs = z.union([
  z
    .number()
    .min(0)
    .max(366 * 86_400)
    .transform((seconds) => seconds * 1000),
  z
    .string()
    .regex(/^\d{1,6}(s|m|h|d)$/, 'it takes a time such as 30s, 10m, 2h or 1d')
    .transform((text) => Number(text.slice(0, -1)) * units[text.at(-1) as keyof typeof units]),
])

const path = z.string().min(1).max(4096)

export const runJob = z.strictObject({
  name: z
    .string()
    .max(63)
    .regex(/^[a-z0-9][a-z0-9._-]*$/i)
    .default('job'),
  run: command,
  /** The working directory. */
  workspace: path.default('.'),
  data: path.optional(),
  /** A checkpoint to start from. */
  from: path.optional(),
  env: environment.default({}),
  /** Ranks on each machine. */
  processes: z.int().min(1).max(processesMax).default(1),
  /** Between SIGTERM and SIGKILL. */
  grace: durationMs.default(30_000),
  out: path.default('out'),
})

export type RunJob = z.output<typeof runJob>

/** Throws a UserError that names the field when the object is not such a job. */
export function parseRunJob(object: unknown): RunJob {
  const result = runJob.safeParse(object)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  const nested = issue.code === 'invalid_union' ? issue.errors.flat().at(-1) : undefined
  const isUnknown = issue.code === 'unrecognized_keys'
  const field = [...issue.path, ...(isUnknown ? [issue.keys[0]!] : [])].join('.') || 'job'
  const why = isUnknown
    ? 'is not a field of a job that runs a command'
    : `is not right: ${(nested ?? issue).message}`
  throw new UserError(`The field ${field} ${why}.`, { failure: 'usage' })
}
