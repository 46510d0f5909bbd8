import type { Deployment, Fleet, ReplicaTable, Version } from '../gateway/replicas.ts'
import { isGone, listServers, type ServerRow } from '../servers/servers.ts'
import type { Store } from '../store/store.ts'
import { type ReplicaRequests, servedName } from './replica-requests.ts'
import { type DeploymentRow, type DeploymentVersion, deploymentNouns } from './rows.ts'

/** Deployments of one service. */
const deploymentsMax = 10_000
const pageRows = 500

/** Fills this server's table of replicas from the rows, whoever looks after them. */
export class FleetFeed {
  readonly #store: Store
  readonly #table: ReplicaTable
  readonly #keyOf: (run: string) => string
  readonly #cluster: string
  /** By cluster; empty while all deployments are of this one. */
  #servers: ReadonlyMap<string, ServerRow> = new Map()
  #last = ''
  #reading: Promise<void> | undefined
  #again = false

  /** `cluster`: the one of this server. */
  constructor(store: Store, table: ReplicaTable, requests: Pick<ReplicaRequests, 'keyOf'>, cluster: string) {
    this.#store = store
    this.#table = table
    this.#keyOf = (run) => requests.keyOf(run)
    this.#cluster = cluster
  }

  /** Reads the rows; calls that come meanwhile share one more reading behind this one. */
  async read(): Promise<void> {
    this.#again = true
    this.#reading ??= this.#readUntilQuiet().finally(() => {
      this.#reading = undefined
    })
    await this.#reading
  }

  async #readUntilQuiet(): Promise<void> {
    while (this.#again) {
      this.#again = false
      const rows: DeploymentRow[] = []
      let cursor: string | undefined
      do {
        const page = await deploymentNouns(this.#store).list({
          limit: pageRows,
          ...(cursor !== undefined && { cursor }),
        })
        rows.push(...page.rows)
        cursor = page.next
      } while (cursor !== undefined && rows.length < deploymentsMax)
      const hasOthers = rows.some(({ cluster }) => cluster !== this.#cluster)
      const servers = hasOthers ? await listServers(this.#store) : []
      this.#servers = new Map(servers.map((server) => [server.cluster, server]))
      this.#publish({
        deployments: rows.filter(({ ending }) => ending === 0).map((row) => this.#deployment(row)),
      })
    }
  }

  /** Only what differs: every change wakes all requests that wait. */
  #publish(fleet: Fleet): void {
    const text = JSON.stringify(fleet)
    if (text === this.#last) return
    this.#last = text
    this.#table.replace(fleet)
  }

  #deployment(row: DeploymentRow): Deployment {
    const { spec, status } = row
    const shares = sharesOf(row)
    const { shadow } = spec.rollout
    const shown = status.candidate?.judged === undefined ? undefined : status.candidate.version
    return {
      name: row.name,
      project: row.project_id,
      created: Math.floor(row.created_at / 1000),
      public: spec.public,
      defaults: spec.defaults,
      versions: spec.versions.map((version) => this.#version(row, version, shares.get(version.id) ?? 0)),
      ...(shadow !== undefined && shown !== undefined && { shadow: { version: shown, share: shadow } }),
      ...(spec.requestLog && { logged: true }),
      ...(row.cluster !== this.#cluster && { home: this.#homeOf(row.cluster) }),
    }
  }

  #homeOf(cluster: string): NonNullable<Deployment['home']> {
    const server = this.#servers.get(cluster)
    const isThere = server !== undefined && !isGone(server, this.#store.clock.unixMs())
    return { cluster, url: isThere ? (server.gateway_url ?? undefined) : undefined }
  }

  /**
   * Replicas listen on their machine's own address. On another machine that would be some other program, which must
   * not even see their keys.
   */
  #canReach(cluster: string): boolean {
    if (cluster === this.#cluster) return true
    const [theirs, ours] = [cluster, this.#cluster].map((one) => this.#servers.get(one))
    return theirs !== undefined && ours !== undefined && hostOf(theirs.url) === hostOf(ours.url)
  }

  #version({ status, cluster }: DeploymentRow, { id, adapters }: DeploymentVersion, share: number): Version {
    const replicas = status.replicas
      .filter((entry) => entry.version === id && entry.url !== undefined && this.#canReach(cluster))
      .map(({ id, url, phase }) => ({ id, url: url!, key: this.#keyOf(id), state: phase }))
    const served = Object.fromEntries(Object.keys(adapters).map((name) => [name, `${servedName}:${name}`]))
    return { id, share, model: servedName, adapters: served, replicas }
  }
}

/** Who gets which part of the traffic that names no version. */
function sharesOf({ spec, status }: DeploymentRow): ReadonlyMap<string, number> {
  const { serving, candidate } = status
  if (serving === null) return new Map([[spec.target, 1]])
  const canary = candidate?.judged === undefined ? 0 : (spec.rollout.canary ?? 0)
  const shares = new Map([[serving, 1 - canary]])
  if (candidate !== null && canary > 0) shares.set(candidate.version, canary)
  return shares
}

function hostOf(url: string): string {
  return new URL(url).hostname
}
