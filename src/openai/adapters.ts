/** Adapters of the running engine: publish, go back, remove. For the trainer and for whoever owns the server. */
import { realpathSync } from 'node:fs'
import { sep } from 'node:path'
import { z } from 'zod'
import { messageOf, UserError } from '../base/errors.ts'
import type { Exchange } from '../http/exchange.ts'
import { Problem } from '../http/problem.ts'
import type { Route } from '../http/router.ts'
import type { AdapterDesk, PublishedAdapter } from '../serve/messages.ts'
import { type Endpoint, parseBody } from './endpoint.ts'

const publication = z.object({
  name: z.string().min(1).max(100),
  /** A folder on the server's machine, with adapter_config.json and adapter_model.safetensors. */
  path: z.string().min(1).max(4096),
})

export interface AdapterAccess {
  /** Folders below which adapters may be loaded over HTTP; without any, nothing may be changed. */
  roots: readonly string[]
  /** Why what lies in a folder is not what was saved there, if it is so. */
  damage: ((folder: string) => Promise<UserError | undefined>) | undefined
  /** Whether requests carry keys; without keys only this machine may change anything. */
  keyed: boolean
}

export function adapterRoutes(endpoint: Endpoint, access: AdapterAccess): readonly Route[] {
  const change = (exchange: Exchange): AdapterDesk => {
    const desk = endpoint.engine.adapters
    if (desk === undefined || access.roots.length === 0) {
      throw new Problem(403, 'adapters_closed', 'This server was not started with --adapter-root.')
    }
    if (!access.keyed && !isLoopback(exchange.request.socket.remoteAddress)) {
      throw new Problem(403, 'adapters_closed', 'Without API keys adapters change from this machine only.')
    }
    return desk
  }
  return [
    {
      method: 'GET',
      path: '/v1/adapters',
      handle: async (exchange) => {
        const data = endpoint.engine.adapters?.list().map(describe) ?? []
        exchange.json(200, { object: 'list', data })
      },
    },
    {
      method: 'POST',
      path: '/v1/adapters',
      handle: async (exchange) => {
        const desk = change(exchange)
        const { name, path } = await parseBody(exchange, publication, endpoint.limits)
        if (endpoint.models.some(({ id }) => id === name))
          throw new Problem(409, 'name_taken', `'${name}' is the model's own name.`, { param: 'name' })
        const folder = within(path, access.roots)
        const publish = async () => {
          const damage = await access.damage?.(folder)
          if (damage !== undefined) throw damage
          return await desk.publish(name, folder)
        }
        exchange.json(201, describe(await answered(publish)))
      },
    },
    {
      method: 'POST',
      path: '/v1/adapters/:name/rollback',
      handle: async (exchange) => {
        const desk = change(exchange)
        exchange.json(200, describe(await answered(() => desk.rollback(exchange.parameters.name!))))
      },
    },
    {
      method: 'DELETE',
      path: '/v1/adapters/:name',
      handle: async (exchange) => {
        const name = exchange.parameters.name!
        if (!change(exchange).remove(name)) throw new Problem(404, 'adapter_not_found', 'No such adapter.')
        exchange.json(200, { object: 'adapter', name, deleted: true })
      },
    },
  ]
}

function describe({ name, id, previous }: PublishedAdapter) {
  return { object: 'adapter', name, version: id, previous_version: previous ?? null }
}

/** The real path of a folder, which must lie below one of the roots: links do not lead out. */
function within(path: string, roots: readonly string[]): string {
  const real = realPath(path)
  const inside = roots.some((root) => {
    const base = realPath(root)
    return base !== undefined && real !== undefined && (real === base || real.startsWith(base + sep))
  })
  // The same answer for what is elsewhere and for what does not exist: nobody maps the disk with it.
  if (real === undefined || !inside)
    throw new Problem(403, 'path_outside', 'There is no such folder below an --adapter-root.', {
      param: 'path',
    })
  return real
}

function realPath(path: string): string | undefined {
  try {
    return realpathSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== undefined) return undefined
    throw error
  }
}

function isLoopback(address: string | undefined): boolean {
  return address !== undefined && /^(::1|(::ffff:)?127\.)/.test(address)
}

const statuses: Readonly<Record<string, 400 | 404 | 409 | 503>> = {
  not_found: 404,
  conflict: 409,
  unreachable: 503,
}

async function answered<T>(run: () => T | Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    const { failure, fix } = error
    const message = fix === undefined ? messageOf(error) : `${messageOf(error)} ${fix}`
    throw new Problem(statuses[failure] ?? 400, `adapter_${failure}`, message)
  }
}
