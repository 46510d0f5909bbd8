/** Which service the command line talks to, as whom, in which project: named contexts in a file of the user's. */
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { UserError } from '../base/errors.ts'
import { homeFolder, writeFileAtomic } from '../base/files.ts'
import { jsonOf } from '../base/json.ts'

const context = z.object({
  url: z.string(),
  /** A key or a session's token. */
  token: z.string().optional(),
  project: z.string().optional(),
  /** The data folder of a service on this machine. */
  data: z.string().optional(),
})
const file = z.object({ current: z.string().optional(), contexts: z.record(z.string(), context) })

export interface Context {
  url: string
  token?: string
  project?: string
  data?: string
}
export interface Contexts {
  current?: string
  contexts: Record<string, Context>
}

export const localContext = 'local'

function contextsPath(): string {
  const { ROPEWAY_HOME, XDG_CONFIG_HOME } = process.env
  if (ROPEWAY_HOME) return join(ROPEWAY_HOME, 'contexts.json')
  return join(XDG_CONFIG_HOME || join(homeFolder(), '.config'), 'ropeway', 'contexts.json')
}

export function readContexts(): Contexts {
  const path = contextsPath()
  if (!existsSync(path)) return { contexts: {} }
  const parsed = file.safeParse(jsonOf(readFileSync(path, 'utf8')))
  if (parsed.success) return parsed.data as Contexts
  throw new UserError(`${path} is not a file of contexts.`, { fix: 'Remove it and log in again.' })
}

/** It holds keys: only its owner may read it. */
export function writeContexts(contexts: Contexts): void {
  const path = contextsPath()
  const mask = process.umask(0o077)
  try {
    writeFileAtomic(path, `${JSON.stringify(contexts, undefined, 2)}\n`)
  } finally {
    process.umask(mask)
  }
  chmodSync(path, 0o600)
}

export function saveContext(name: string, changed: Context): void {
  const { contexts } = readContexts()
  const before = contexts[name]
  const { data, ...others } = before ?? {}
  // Whoever logs in somewhere else under this name has left the service of that folder.
  const kept = before?.url === changed.url ? before : others
  writeContexts({ current: name, contexts: { ...contexts, [name]: { ...kept, ...changed } } })
}

/**
 * The context that a command uses: the one it names, or the current one. ROPEWAY_URL, ROPEWAY_KEY and ROPEWAY_PROJECT
 * go before what the file says, so that a job or a pipeline needs no file.
 */
export function chosenContext(name: string | undefined): Context & { name: string } {
  const { ROPEWAY_URL, ROPEWAY_KEY, ROPEWAY_PROJECT } = process.env
  const { current, contexts } = readContexts()
  const chosen = name ?? current
  const saved = chosen === undefined ? undefined : contexts[chosen]
  if (name !== undefined && saved === undefined)
    throw new UserError(`There is no context ${name}.`, {
      failure: 'not_found',
      fix: 'ropeway context lists them.',
    })
  const isElsewhere = ROPEWAY_URL !== undefined && name === undefined && ROPEWAY_URL !== saved?.url
  const url = name === undefined ? (ROPEWAY_URL ?? saved?.url) : saved?.url
  if (url === undefined)
    throw new UserError('No service is known here.', {
      failure: 'usage',
      fix: 'Start one with `ropeway up`, or log in to one with `ropeway login URL`.',
    })
  // A token goes to the service that gave it, and to no other.
  const token = ROPEWAY_KEY ?? (isElsewhere ? undefined : saved?.token)
  const project = ROPEWAY_PROJECT ?? (isElsewhere ? undefined : saved?.project)
  return {
    name: chosen ?? 'environment',
    url,
    ...(token !== undefined && { token }),
    ...(project !== undefined && { project }),
  }
}

/** Whether {@link chosenContext} finds one. */
export function isServiceKnown(name: string | undefined): boolean {
  return name !== undefined || process.env.ROPEWAY_URL !== undefined || readContexts().current !== undefined
}
