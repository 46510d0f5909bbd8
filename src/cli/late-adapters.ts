/** What the gateway serves beside its deployments: checkpoints of fine-tuning jobs, loaded when they are asked for. */
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { UserError } from '../base/errors.ts'
import { AdapterLoader } from '../control/deployments/adapter-loader.ts'
import { Publications } from '../control/deployments/publications.ts'
import type { RunningDeployments } from '../control/deployments/running.ts'
import type { LateModels } from '../control/gateway/late-models.ts'
import type { ReplicaTable } from '../control/gateway/replicas.ts'
import { Upstreams } from '../control/gateway/upstream.ts'
import { ModelFolders } from '../control/models/model-folders.ts'
import type { ServiceContext } from '../control/service/context.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import { Hosts } from '../control/tuning/hosts.ts'
import { TunedModels } from '../control/tuning/tuned-models.ts'
import type { DataParts } from './data-parts.ts'

const sweepEveryMs = 60_000
const bringMsMax = 120_000
const lookAgainMs = 50

export class LateAdapters {
  /** Replicas may load from here. */
  readonly root: string
  readonly loads: AdapterLoader
  readonly publications: Publications
  readonly #upstreams = new Upstreams()
  readonly #folders: ModelFolders
  readonly #context: ServiceContext
  readonly #data: Pick<DataParts, 'checkpoints' | 'models'>
  #sweep: Loop | undefined

  constructor(
    context: ServiceContext,
    folder: string,
    data: Pick<DataParts, 'checkpoints' | 'models'>,
    table: ReplicaTable,
  ) {
    this.root = resolve(folder, 'replicas', 'adapters')
    this.publications = new Publications(data.checkpoints)
    this.#context = context
    this.#data = data
    this.#folders = new ModelFolders(data.checkpoints, this.root, context.log)
    this.loads = new AdapterLoader({
      upstreams: this.#upstreams,
      clock: context.store.clock,
      folderOf: (checkpoint) => this.#folderOf(checkpoint),
    })
    table.onChange((fleet) => this.loads.retain(fleet))
  }

  /** What is found by name: what trainings published, then what fine-tuning jobs have made. */
  models(running: RunningDeployments): LateModels {
    const hosts = new Hosts(running.deployments, () => running.refresh())
    const tuned = new TunedModels({ ...this.#data, hosts })
    const { publications } = this
    return {
      find: async (project, name) =>
        (await publications.find(project, name)) ?? (await tuned.find(project, name)),
      list: async (project) => [...(await publications.list(project)), ...(await tuned.list(project))],
    }
  }

  start(): void {
    const pass = async () => void (await this.#folders.sweep(() => this.loads.inUse()))
    this.#sweep = startLoop({ name: 'adapter folders', everyMs: sweepEveryMs, log: this.#context.log, pass })
  }

  async close(): Promise<void> {
    await this.#sweep?.stop()
    await this.#folders.close()
    this.#upstreams.close()
  }

  async #folderOf(checkpoint: string): Promise<string> {
    const { clock } = this.#context.store
    const untilMs = clock.nowMs() + bringMsMax
    for (;;) {
      const found = await this.#folders.locate(checkpoint)
      if (found.ok) return found.path
      if (found.later !== true || clock.nowMs() > untilMs) throw new UserError(found.message)
      await delay(lookAgainMs)
    }
  }
}
