/** Jobs as `ropeway up` runs them: this machine as a cluster, its loop, and what they tell of themselves. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { openCredential } from '../control/credentials/credentials.ts'
import { checkJobCredentials, jobVariables } from '../control/credentials/variables.ts'
import { moveDeployments } from '../control/deployments/move.ts'
import { JobFolders } from '../control/jobs/folders.ts'
import { Jobs } from '../control/jobs/jobs.ts'
import { LocalWorkplace, type LocalWorkplaceOptions } from '../control/jobs/launch.ts'
import { startJobLoop } from '../control/jobs/loop.ts'
import { machineRoutes } from '../control/jobs/machine-routes.ts'
import { ensureCluster } from '../control/jobs/machines.ts'
import type { ServedCluster } from '../control/jobs/reconcile.ts'
import { jobRoutes } from '../control/jobs/routes.ts'
import { jobNouns } from '../control/jobs/rows.ts'
import { templateRoutes } from '../control/jobs/template-routes.ts'
import { workspaceRoutes } from '../control/jobs/workspace-routes.ts'
import { Workspaces } from '../control/jobs/workspaces.ts'
import { LocalLauncher } from '../control/launchers/local/local-launcher.ts'
import { bringNewest } from '../control/models/collect.ts'
import { type Providing, provide } from '../control/models/provide.ts'
import type { ObjectStore } from '../control/objects/store.ts'
import type { ServiceContext } from '../control/service/context.ts'
import type { Loop } from '../control/service/loop.ts'
import type { RouteModule } from '../control/service/routes.ts'
import { endLeases, endNamesOf } from '../control/store/leases.ts'
import { checkDeviceBudgets } from '../control/usage/device-budgets.ts'
import { parseTrainingJob } from '../train/job.ts'
import { ownCommand } from './own-command.ts'
import { wrapperEntry } from './wrapper-entry.ts'

export class JobRoom {
  readonly jobs: Jobs
  readonly routes: readonly RouteModule[]
  readonly #context: ServiceContext
  readonly #clusters: ReadonlyMap<string, ServedCluster>
  /** The name of this machine as a cluster. */
  readonly cluster: string
  /** Where its jobs have their files. */
  readonly folders: JobFolders
  /** Brings checkpoints that jobs have written; woken by each. */
  collecting: Loop | undefined
  #loop: Loop | undefined

  constructor(
    context: ServiceContext,
    folder: string,
    objects: ObjectStore,
    cluster: string,
    data: Omit<Providing, 'store'>,
  ) {
    this.cluster = cluster
    this.#context = context
    const folders = new JobFolders(join(folder, 'jobs'))
    this.folders = folders
    const workspaces = new Workspaces(objects)
    const providing = { ...data, store: context.store }
    const wake = () => this.#loop?.wake()
    this.jobs = new Jobs({
      store: context.store,
      wake,
      hasWorkspace: (project, id) => workspaces.has(project, id),
      checkCredentials: (project, names) => checkJobCredentials(context, project, names),
      checkBudget: (project) => checkDeviceBudgets(context.store, project),
      checkTraining: (file) => void parseTrainingJob(file, folder),
    })
    const secrets = {
      registry: async (project: string, name: string) =>
        await openCredential(context, project, name, 'docker'),
      secrets: (project: string, names: readonly string[]) => jobVariables(context, project, names),
    }
    this.#clusters = new Map([[this.cluster, localParts(folder, folders, workspaces, providing, secrets)]])
    this.routes = [
      jobRoutes({ jobs: this.jobs, clusters: this.#clusters, folders }),
      machineRoutes({ wake, moveDeployments: (lost) => moveDeployments(context.store, lost, cluster) }),
      workspaceRoutes(workspaces),
      templateRoutes(this.jobs),
    ]
  }

  async start(): Promise<Loop> {
    const { store, log, sealer } = this.#context
    // Two trainings on the same cores slow each other down far more than twice: one at a time, until told otherwise.
    const slots = { cpu: 1, ...(gpus() > 0 && { gpu: gpus() }) }
    // No other server works on this cluster, so whoever held one of its jobs is dead.
    await endLeases(jobNouns(store), (is) => is.and([is('cluster', '=', this.cluster)]))
    await endNamesOf(store, this.cluster)
    await ensureCluster(store, this.cluster, { kind: 'local', slots, open: true })
    const owner = `${this.cluster}/${store.ids.next('loop')}`
    this.#loop = startJobLoop({
      ...{ store, log, sealer, owner, clusters: this.#clusters },
      onCheckpoint: () => this.collecting?.wake(),
    })
    return this.#loop
  }
}

function localParts(
  folder: string,
  folders: JobFolders,
  workspaces: Workspaces,
  providing: Providing,
  secrets: Required<Pick<LocalWorkplaceOptions, 'registry' | 'secrets'>>,
): ServedCluster {
  const launcher = new LocalLauncher({ root: join(folder, 'runs'), wrapper: wrapperEntry() })
  const workplace = new LocalWorkplace({
    folders,
    trainer: ownCommand(),
    ...secrets,
    unpack: async ({ id, name, project_id, spec }, into) => {
      if (spec.workspace !== undefined) await workspaces.unpack(project_id, spec.workspace, into)
      await provide(providing, project_id, { id, label: `job ${name}` }, spec.file, into)
      await bringNewest(providing.checkpoints, id, folders.output(id))
    },
  })
  return { launcher, workplace }
}

/** NVIDIA's driver has a file for each. */
function gpus(): number {
  return readdirSync('/dev').filter((name) => /^nvidia\d+$/.test(name)).length
}
