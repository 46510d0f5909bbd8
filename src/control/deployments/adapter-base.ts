/**
 * Whether an adapter belongs to what a deployment serves: both are made of checkpoints of the project, which are the
 * same when their files are. What lies on the machine itself has no checkpoint; there the engine's own check of the
 * shapes has to do.
 */
import { UserError } from '../../base/errors.ts'
import { Problem } from '../../http/problem.ts'
import type { Checkpoints } from '../models/checkpoints.ts'
import type { DeploymentRow, DeploymentSpec } from './rows.ts'

/** Which versions of a deployment may answer with an adapter: all of them, or the one. */
export type Bearers = { readonly all: true } | { readonly all: false; readonly version: string }

/** Comparisons that are remembered: a checkpoint's files never change. */
const comparedMax = 1000

export class AdapterBases {
  readonly #checkpoints: Checkpoints
  readonly #compared = new Map<string, boolean>()

  constructor(checkpoints: Checkpoints) {
    this.#checkpoints = checkpoints
  }

  /** Throws UserError when the version that serves, or is to serve, has another base. `base` is a checkpoint's id. */
  async refuseOther({ name, spec, status }: DeploymentRow, base: string | undefined): Promise<void> {
    const version = status.serving ?? spec.target
    if (await this.#fits(spec, version, base)) return
    throw new UserError(
      `${name} serves ${labelOf(spec, version)} (${version}), and the adapter is of ${await this.#named(base)}.`,
      {
        failure: 'conflict',
        fix: `Train from what ${name} serves, or publish to a deployment of that model.`,
      },
    )
  }

  /** Throws Problem when no version that gets requests has the adapter's base. */
  async bearersOf(
    { name, spec, status }: DeploymentRow,
    adapter: string,
    base: string | undefined,
  ): Promise<Bearers> {
    const serving = status.serving ?? spec.target
    const live = [...new Set([serving, status.candidate?.version ?? serving])]
    const bearing: string[] = []
    for (const version of live) if (await this.#fits(spec, version, base)) bearing.push(version)
    const [first] = bearing
    if (bearing.length === live.length) return { all: true }
    if (first !== undefined) return { all: false, version: first }
    throw new Problem(
      409,
      'adapter_of_another_base',
      `${adapter} was trained on ${await this.#named(base)}, and ${name} serves ${labelOf(spec, serving)} now.`,
    )
  }

  /** True also when one of the two is not known. */
  async #fits(spec: DeploymentSpec, version: string, base: string | undefined): Promise<boolean> {
    const own = sourceOf(spec, version)?.checkpoint
    if (own === undefined || base === undefined || own === base) return true
    const key = `${own} ${base}`
    const known = this.#compared.get(key)
    if (known !== undefined) return known
    const { nouns } = this.#checkpoints
    const [served, wanted] = [await nouns.get(own), await nouns.get(base)]
    const fits = served === undefined || wanted === undefined || served.digest === wanted.digest
    if (this.#compared.size >= comparedMax) this.#compared.clear()
    this.#compared.set(key, fits)
    return fits
  }

  async #named(base: string | undefined): Promise<string> {
    const row = base === undefined ? undefined : await this.#checkpoints.nouns.get(base)
    return row === undefined ? 'another model' : `checkpoint ${row.name}`
  }
}

function sourceOf(spec: DeploymentSpec, version: string) {
  const found = spec.versions.find(({ id }) => id === version)
  return found?.sources?.[found.model]
}

function labelOf(spec: DeploymentSpec, version: string): string {
  return sourceOf(spec, version)?.node.label ?? version
}
