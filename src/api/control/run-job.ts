/** A job that is any command (`run:`): what its file says, checked field by field. */
import { z } from 'zod'
import { splitCommandLine } from './command-line.ts'

const argumentsMax = 1000
const argumentCharactersMax = 100_000
const variablesMax = 200
export const processesMax = 256
export const nodesMax = 256
/** Of all machines of a job. */
const ranksMax = 1024

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

const byteUnits = { k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 } as const

/** `512m`, `8g`: bytes. */
const size = z
  .string()
  .regex(/^[1-9]\d{0,5}[kmgt]$/i, 'it takes a size such as 512m or 8g')
  .transform(
    (text) => Number(text.slice(0, -1)) * byteUnits[text.at(-1)!.toLowerCase() as keyof typeof byteUnits],
  )

/** Name, tag and digest of an image (OCI distribution specification, "pulling manifests"), as podman and docker take it. */
const image = z
  .string()
  .max(500)
  .regex(
    /^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*$/,
    'it is no name of an image, such as docker.io/library/python:3.12',
  )

/** What a container gets; only with `image`. */
const containerFields = {
  /** A credential of kind docker, to fetch the image. */
  registry: z.string().min(1).max(63).optional(),
  /** Ranks that talk to each other need `host`, which several have without being asked. */
  network: z.enum(['none', 'bridge', 'host']).optional(),
  memory: size.optional(),
  cpus: z.number().min(0.1).max(1024).optional(),
  shared_memory: size.optional(),
}

export const runJob = z
  .strictObject({
    name: z
      .string()
      .max(63)
      .regex(
        /^[a-z0-9][a-z0-9._-]*$/i,
        'it takes letters, digits and . _ -, and begins with a letter or digit',
      )
      .default('job'),
    run: command,
    /** The working directory. */
    workspace: path.default('.'),
    data: path.optional(),
    /** A checkpoint to start from. */
    from: path.optional(),
    env: environment.default({}),
    /** The command runs in a container of it. */
    image: image.optional(),
    ...containerFields,
    /** Machines; each starts so many `processes`, all at once or none. */
    nodes: z.int().min(1).max(nodesMax).default(1),
    /** Ranks on each machine. */
    processes: z.int().min(1).max(processesMax).default(1),
    /** Between SIGTERM and SIGKILL. */
    grace: durationMs.default(30_000),
    out: path.default('out'),
  })
  .superRefine((job, context) => {
    if (job.nodes * job.processes > ranksMax)
      context.addIssue({
        code: 'custom',
        path: ['nodes'],
        message: `all nodes together have more than ${ranksMax} processes`,
      })
    for (const name of Object.keys(containerFields) as (keyof typeof containerFields)[])
      if (job.image === undefined && job[name] !== undefined)
        context.addIssue({ code: 'custom', path: [name], message: 'it is for a job with an image' })
  })

export type RunJob = z.output<typeof runJob>
