import { createHmac } from 'node:crypto'
import type { RunRequest } from '../launchers/launcher.ts'
import type { Located } from '../models/model-folders.ts'
import type { DeploymentRow, DeploymentVersion, ReplicaEntry, Source } from './rows.ts'

export interface ReplicaRequestOptions {
  /** Of the service; 32 bytes or more that nobody else knows. */
  readonly secret: Uint8Array
  /** Program and first arguments of Ropeway's command line. */
  readonly ropeway: readonly string[]
  /** Absolute path of the folder in which replicas run. */
  readonly folder: string
  /** Folder from which replicas may load adapters while they run. */
  readonly adapterRoot?: string
  /** Where a model or adapter lies on this machine: what its name meant, or the name in the models folder. */
  readonly locate: (reference: string, source: Source | undefined) => Promise<Located>
}

/** What replicas call their model: the gateway translates. */
export const servedName = 'model'

/** Says how a replica is run. The same entry gives the same request whenever it is asked for, as launchers want it. */
export class ReplicaRequests {
  readonly #options: ReplicaRequestOptions

  constructor(options: ReplicaRequestOptions) {
    this.#options = options
  }

  /** The key by which the gateway speaks to a replica: a function of the run, so nobody has to keep it. */
  keyOf(run: string): string {
    return createHmac('sha256', this.#options.secret).update(`replica ${run}`).digest('hex')
  }

  async of(
    row: DeploymentRow,
    entry: ReplicaEntry,
  ): Promise<{ ok: true; request: RunRequest } | Extract<Located, { ok: false }>> {
    const version = row.spec.versions.find(({ id }) => id === entry.version)
    if (version === undefined) return { ok: false, message: `There is no version ${entry.version}.` }
    const { locate, ropeway, folder, adapterRoot } = this.#options
    const model = await locate(version.model, version.sources?.[version.model])
    if (!model.ok) return model
    const adapters: string[] = []
    for (const [name, reference] of Object.entries(version.adapters)) {
      const adapter = await locate(reference, version.sources?.[reference])
      if (!adapter.ok) return adapter
      adapters.push(`--adapter=${name}=${adapter.path}`)
    }
    const command = [
      ...[...ropeway, 'serve', model.path, '--name', servedName, '--host', '127.0.0.1', '--port', '0'],
      ...adapters,
      ...(adapterRoot === undefined ? [] : [`--adapter-root=${adapterRoot}`]),
      ...flagsOf(version),
    ]
    // Not an argument: those are shown to everybody on the machine.
    const environment = { ROPEWAY_GATEWAY_KEYS: this.keyOf(entry.id) }
    const { devices } = version
    const demand = devices && { devices: { type: devices.type, perMember: devices.count } }
    return { ok: true, request: { id: entry.id, command, environment, folder, members: 1, ...demand } }
  }
}

function flagsOf({ engine }: DeploymentVersion): string[] {
  return Object.entries(engine).map(([flag, value]) => `--${flag}=${value}`)
}
