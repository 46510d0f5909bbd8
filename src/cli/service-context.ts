/** By which context the command line of this machine knows the service of a data folder. */
import { existsSync, realpathSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { type Context, localContext, readContexts, saveContext, writeContexts } from './contexts.ts'

export interface Known {
  readonly name: string
  readonly saved: Context | undefined
}

/**
 * The one that was saved for it, `local` where that is nobody else's, or a new one called as the folder: the key of another
 * service, shown once, must not be lost, nor sent to this one. `freshAt` is where it answers, if its
 * database is new.
 */
export function contextOf(folder: string, freshAt?: string): Known {
  const data = placeOf(folder)
  const { contexts } = readContexts()
  const own = Object.entries(contexts).find(([, saved]) => saved.data === data)
  if (own !== undefined) return { name: own[0], saved: own[1] }
  const local = contexts[localContext]
  // One of a version that did not say whose it is. Where a new service answers, the one before does no more.
  const isOurs = local?.data === undefined && (freshAt === undefined || local?.url === freshAt)
  if (local === undefined || isOurs) return { name: localContext, saved: local }
  return { name: freeName(basename(data), contexts), saved: undefined }
}

/** Notes where the service of a folder answers, and with which key. Only its first context, `local`, becomes the current one. */
export function keepContext({ name, saved }: Known, folder: string, changed: Context): void {
  const { current } = readContexts()
  saveContext(name, { ...changed, data: placeOf(folder) })
  const isNew = saved?.token !== changed.token
  if (current !== undefined && !(isNew && name === localContext))
    writeContexts({ ...readContexts(), current })
}

/** What to tell somebody whose command line goes on talking to another service; undefined where it does not. */
export function currentElsewhere(name: string): string | undefined {
  const { current, contexts } = readContexts()
  if (current === undefined || current === name) return undefined
  const where = contexts[current]?.url ?? 'nowhere'
  return `The command line goes on with its context "${current}" (${where}); \`ropeway context use ${name}\` takes it here.`
}

function placeOf(folder: string): string {
  return existsSync(folder) ? realpathSync(folder) : resolve(folder)
}

function freeName(wanted: string, taken: Readonly<Record<string, Context>>): string {
  const name = wanted.replaceAll(/[^\w.-]/g, '-') || 'service'
  for (let n = 1; ; n++) {
    const free = n === 1 ? name : `${name}-${n}`
    if (!Object.hasOwn(taken, free)) return free
  }
}
