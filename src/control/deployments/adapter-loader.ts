/**
 * Which adapters each replica of this machine has beside those that it was started with: loaded when they are asked
 * for, and the one that was asked for least lately goes when there is no room. Adapters never change, so a replica's
 * name for one is the checkpoint's id; requests in flight end on what they began with (serve/process/adapter-desk.ts).
 */
import { z } from 'zod'
import type { Clock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { Problem } from '../../http/problem.ts'
import type { AdapterLoads } from '../gateway/late-models.ts'
import type { Fleet, Replica } from '../gateway/replicas.ts'
import type { Upstreams } from '../gateway/upstream.ts'
import { servedName } from './replica-requests.ts'

export interface AdapterLoaderOptions {
  readonly upstreams: Upstreams
  readonly clock: Clock
  /** Where the adapter lies, below the folder that replicas may load from. Throws UserError when it cannot be had. */
  readonly folderOf: (adapter: string) => Promise<string>
}

/** Of one replica; an engine has 24 names, some of which its version takes. */
export const loadedMax = 12
const loadMsMax = 120_000

interface Entry {
  readonly ready: Promise<string>
  usedMs: number
}

const listed = z.object({ data: z.array(z.object({ name: z.string() })) })
const refusal = z.object({ error: z.object({ message: z.string() }) })

export class AdapterLoader implements AdapterLoads {
  readonly #options: AdapterLoaderOptions
  readonly #replicas = new Map<string, Promise<Map<string, Entry>>>()

  constructor(options: AdapterLoaderOptions) {
    this.#options = options
  }

  async load(replica: Replica, adapter: string): Promise<string> {
    const loaded = await this.#loadedIn(replica)
    const usedMs = this.#options.clock.nowMs()
    const known = loaded.get(adapter)
    if (known !== undefined) {
      known.usedMs = usedMs
      return await known.ready
    }
    // Whoever comes meanwhile waits for the same; nobody's leaving ends it.
    const entry: Entry = { ready: this.#load(replica, loaded, adapter), usedMs }
    loaded.set(adapter, entry)
    try {
      return await entry.ready
    } catch (error) {
      if (loaded.get(adapter) === entry) loaded.delete(adapter)
      throw error
    }
  }

  forget(replica: string, adapter: string): void {
    void this.#replicas.get(replica)?.then((loaded) => loaded.delete(adapter))
  }

  /** Adapters that some replica has: their folders are needed when an engine starts again. */
  async inUse(): Promise<Set<string>> {
    const all = await Promise.allSettled(this.#replicas.values())
    return new Set(all.flatMap((one) => (one.status === 'fulfilled' ? [...one.value.keys()] : [])))
  }

  /** A replica lives longer than a server: what an earlier one loaded counts too. */
  #loadedIn(replica: Replica): Promise<Map<string, Entry>> {
    let loaded = this.#replicas.get(replica.id)
    if (loaded === undefined) {
      loaded = this.#listed(replica)
      this.#replicas.set(replica.id, loaded)
      loaded.catch(() => this.#replicas.delete(replica.id))
    }
    return loaded
  }

  async #listed(replica: Replica): Promise<Map<string, Entry>> {
    const signal = AbortSignal.timeout(loadMsMax)
    const text = await this.#options.upstreams.get(replica, '/v1/adapters', signal)
    const { data } = listed.parse(JSON.parse(text))
    const own = data.filter(({ name }) => name.startsWith('checkpoint_'))
    return new Map(
      own.map(({ name }) => [name, { ready: Promise.resolve(`${servedName}:${name}`), usedMs: 0 }]),
    )
  }

  /** Forgets replicas that are in no fleet any more. */
  retain({ deployments }: Fleet): void {
    const ids = new Set(
      deployments.flatMap(({ versions }) => versions.flatMap(({ replicas }) => replicas.map(({ id }) => id))),
    )
    for (const id of this.#replicas.keys()) if (!ids.has(id)) this.#replicas.delete(id)
  }

  async #load(replica: Replica, loaded: Map<string, Entry>, adapter: string): Promise<string> {
    const path = await this.#pathOf(adapter)
    await this.#makeRoom(replica, loaded, adapter)
    const { upstreams } = this.#options
    const body = Buffer.from(JSON.stringify({ name: adapter, path }))
    const signal = AbortSignal.timeout(loadMsMax)
    const response = await upstreams.post(replica, '/v1/adapters', body, { headers: {}, signal, whole: true })
    const text = await upstreams.text(response)
    if (response.statusCode === 201) return `${servedName}:${adapter}`
    throw unavailable(adapter, saidIn(text) ?? `status ${response.statusCode}`)
  }

  async #pathOf(adapter: string): Promise<string> {
    try {
      return await this.#options.folderOf(adapter)
    } catch (error) {
      if (error instanceof UserError) throw unavailable(adapter, error.message)
      throw error
    }
  }

  async #makeRoom(replica: Replica, loaded: Map<string, Entry>, coming: string): Promise<void> {
    const others = [...loaded].filter(([adapter]) => adapter !== coming)
    const oldest = others.sort(([, a], [, b]) => a.usedMs - b.usedMs)
    for (const [adapter] of oldest.slice(0, Math.max(0, others.length + 1 - loadedMax))) {
      loaded.delete(adapter)
      const signal = AbortSignal.timeout(loadMsMax)
      await this.#options.upstreams.remove(replica, `/v1/adapters/${adapter}`, signal)
    }
  }
}

function saidIn(text: string): string | undefined {
  try {
    return refusal.safeParse(JSON.parse(text)).data?.error.message
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

function unavailable(adapter: string, why: string): Problem {
  return new Problem(503, 'adapter_unavailable', `The adapter ${adapter} cannot be served: ${why}`)
}
