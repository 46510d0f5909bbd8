/** Deployments that answer for a checkpoint as their whole model. */
import { deploymentInput } from '../../api/control/deployments.ts'
import { UserError } from '../../base/errors.ts'
import type { Deployments } from '../deployments/deployments.ts'
import type { DeploymentRow } from '../deployments/rows.ts'

export interface Host {
  readonly deployment: string
  /** The version of it that serves the checkpoint. */
  readonly version: string
}

const deploymentsMax = 1000
const nameCharactersMax = 40

export class Hosts {
  readonly #deployments: Deployments
  readonly #refresh: () => Promise<void>

  /** `refresh` makes the gateway see what is new. */
  constructor(deployments: Deployments, refresh: () => Promise<void>) {
    this.#deployments = deployments
    this.#refresh = refresh
  }

  /** One of the project; where there is none it is made, asleep. `named` is what people know the checkpoint by. */
  async of(project: string, checkpoint: string, named: string): Promise<Host> {
    const known = await this.#find(project, checkpoint)
    if (known !== undefined) return known
    const slug = named
      .toLowerCase()
      .replace(/[^a-z0-9._-]+/g, '-')
      .replace(/^[^a-z0-9]+/, '')
    const input = {
      name: `ft-${slug.slice(0, nameCharactersMax)}-${checkpoint.slice(-8)}`,
      scaling: { min: 0, max: 1 },
      version: { model: `checkpoint:${checkpoint}` },
    }
    try {
      await this.#deployments.create(project, deploymentInput.parse(input))
    } catch (error) {
      // Another request for it came first.
      const theirs = error instanceof UserError ? await this.#find(project, checkpoint) : undefined
      if (theirs === undefined) throw error
    }
    await this.#refresh()
    return { deployment: input.name, version: 'v1' }
  }

  async #find(project: string, checkpoint: string): Promise<Host | undefined> {
    const { rows } = await this.#deployments.nouns.list({ project, limit: deploymentsMax })
    for (const row of rows) {
      const version = answering(row)
      if (row.ending === 0 && version?.sources?.[version.model]?.checkpoint === checkpoint)
        return { deployment: row.name, version: version.id }
    }
    return undefined
  }
}

function answering({ spec, status }: DeploymentRow) {
  return spec.versions.find(({ id }) => id === (status.serving ?? spec.target))
}
