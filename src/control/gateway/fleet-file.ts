import { unwatchFile, watchFile } from 'node:fs'
import { z } from 'zod'
import { firstIssue } from '../../api/issues.ts'
import { UserError } from '../../base/errors.ts'
import { readJsonFile } from '../../base/files.ts'
import type { Budget, Price } from './budgets.ts'
import type { Caller } from './keys.ts'
import { type Fleet, faultOf } from './replicas.ts'

/** How often a fleet file is looked at. */
const watchMs = 200

const count = z.number().positive()
const name = z.string().min(1).max(200)

const replica = z
  .strictObject({
    id: name.optional(),
    url: z.url({ protocol: /^https?$/ }),
    key: z.string().min(1).optional(),
    /** The environment variable that holds the key. */
    keyEnv: z.string().min(1).optional(),
    state: z.enum(['starting', 'ready', 'draining']).default('ready'),
  })
  .transform(({ id, url, key, keyEnv, state }) => {
    const secret = key ?? (keyEnv === undefined ? undefined : process.env[keyEnv])
    const base = url.replace(/\/+$/, '').replace(/\/v1$/, '')
    return { id: id ?? base, url: base, state, ...(secret !== undefined && { key: secret }) }
  })

const version = z.strictObject({
  id: name,
  share: z.number().min(0).default(1),
  model: name,
  adapters: z.record(name, name).default({}),
  replicas: z.array(replica).max(1000).default([]),
})

const deployment = z
  .strictObject({
    name,
    project: z.string().max(200).default('default'),
    public: z.boolean().default(false),
    created: z.int().min(0).default(0),
    defaults: z.record(z.string(), z.unknown()).default({}),
    shadow: z.strictObject({ version: name, share: z.number().gt(0).max(1) }).optional(),
    /** Write requests and answers down (with --request-log). */
    logged: z.boolean().default(false),
    /** The short form of a deployment with one version. */
    model: name.optional(),
    replicas: z.array(replica).max(1000).optional(),
    versions: z.array(version).max(100).optional(),
  })
  .transform(({ model, replicas, versions, shadow, ...rest }) => ({
    ...rest,
    ...(shadow !== undefined && { shadow }),
    versions: versions ?? [
      {
        id: 'v1',
        share: 1,
        model: model ?? rest.name,
        adapters: {},
        replicas: replicas ?? [],
      },
    ],
  }))

const key = z.strictObject({
  id: name,
  sha256: z.string().regex(/^[0-9a-f]{64}$/, 'Expected 64 lower-case hex digits: printf %s KEY | sha256sum'),
  project: z.string().max(200).default('default'),
  limits: z
    .strictObject({
      requestsPerMinute: count.optional(),
      tokensPerMinute: count.optional(),
      concurrent: count.optional(),
    })
    .default({}),
})

const price = z.strictObject({
  model: name,
  inputPerMillion: z.number().min(0),
  cachedPerMillion: z.number().min(0).optional(),
  outputPerMillion: z.number().min(0),
})

const budget = z.strictObject({
  project: z.string().max(200).optional(),
  key: name.optional(),
  per: z.enum(['day', 'month']),
  tokens: count.optional(),
  cost: count.optional(),
})

const fleetFile = z.strictObject({
  keys: z.array(key).max(100_000).default([]),
  deployments: z.array(deployment).max(10_000),
  prices: z.array(price).max(10_000).default([]),
  budgets: z.array(budget).max(10_000).default([]),
})

/** All that `ropeway gateway FILE.json` needs to know. */
export interface GatewayFile {
  fleet: Fleet
  callers: ReadonlyMap<string, Caller>
  prices: readonly Price[]
  budgets: readonly Budget[]
}

/** Throws a UserError that names the first thing wrong. */
export function readGatewayFile(path: string): GatewayFile {
  const parsed = fleetFile.safeParse(readJsonFile(path))
  if (!parsed.success) {
    const { param = 'the file', message } = firstIssue(parsed.error, fleetFile)
    throw new UserError(`${path}: ${param}: ${message}`, {
      failure: 'usage',
    })
  }
  const { keys, deployments, prices, budgets } = parsed.data
  const fleet: Fleet = { deployments }
  const fault = faultOf(fleet)
  if (fault !== undefined) throw new UserError(`${path}: ${fault}`, { failure: 'usage' })
  const callers = new Map(
    keys.map(({ id, sha256, project, limits }) => [sha256, { key: id, project, limits: defined(limits) }]),
  )
  return { fleet, callers, prices: prices.map(defined), budgets: budgets.map(defined) }
}

/** Calls `onChange` with the new content, or `onError` when it is not sound: the old one then stays in force. */
export function watchGatewayFile(
  path: string,
  onChange: (file: GatewayFile) => void,
  onError: (error: UserError) => void,
): () => void {
  const look = () => {
    let file: GatewayFile
    try {
      file = readGatewayFile(path)
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      onError(error)
      return
    }
    onChange(file)
  }
  watchFile(path, { interval: watchMs, persistent: false }, look)
  return () => unwatchFile(path, look)
}

type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> }

/** Fields that are undefined become absent ones. */
function defined<T extends object>(value: T): Defined<T> {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as Defined<T>
}
