/**
 * Every checkpoint of a fine-tuning job as a model by name: `ft:BASE:ORGANISATION:SUFFIX:ID:ckpt-step-N`, and without
 * the step what a job ended with. An adapter is answered by a deployment of its base, a whole model by one of its own;
 * where there is none, one is made that sleeps until it is asked.
 */
import type { Model } from '../../api/models.ts'
import type { LateModel, LateModels } from '../gateway/late-models.ts'
import type { Checkpoints } from '../models/checkpoints.ts'
import type { Models } from '../models/models.ts'
import type { CheckpointRow } from '../models/rows.ts'
import type { Nouns } from '../store/nouns.ts'
import { isTunable } from './base-model.ts'
import { Grants } from './grants.ts'
import type { Hosts } from './hosts.ts'
import { checkpointName, jobIdOf, modelNameParts, type TuningRow, tuningNouns } from './rows.ts'

export interface TunedModelsOptions {
  readonly models: Models
  readonly checkpoints: Checkpoints
  readonly hosts: Hosts
}

const knownMax = 1000
const knownMs = 1000
const jobsMax = 200
const modelsMax = 200
const checkpointsMax = 1000

export class TunedModels implements LateModels {
  readonly #options: TunedModelsOptions
  readonly #nouns: Nouns<TuningRow>
  readonly #grants: Grants
  readonly #known = new Map<string, { model: Promise<LateModel | undefined>; untilMs: number }>()

  constructor(options: TunedModelsOptions) {
    this.#options = options
    this.#nouns = tuningNouns(options.models.store)
    this.#grants = new Grants(options.models.store)
  }

  /** Remembered for a second: under load, names repeat. */
  async find(project: string, name: string): Promise<LateModel | undefined> {
    const parts = modelNameParts(name)
    if (parts === undefined) return undefined
    const key = `${project} ${name}`
    const nowMs = this.#options.models.store.clock.nowMs()
    const known = this.#known.get(key)
    if (known !== undefined && known.untilMs > nowMs) return await known.model
    if (this.#known.size >= knownMax) this.#known.clear()
    const model = this.#find(project, name, parts)
    this.#known.set(key, { model, untilMs: nowMs + knownMs })
    model.catch(() => this.#known.delete(key))
    return await model
  }

  async #find(
    project: string,
    name: string,
    { model, step: given }: NonNullable<ReturnType<typeof modelNameParts>>,
  ): Promise<LateModel | undefined> {
    const row = (await this.#nouns.named(project, model)) ?? (await this.#granted(project, name))
    if (row === undefined) return undefined
    const step = given ?? lastStepOf(row)
    const checkpoint =
      step === undefined ? undefined : await this.#options.checkpoints.jobStep(jobIdOf(row.id), step)
    if (checkpoint === undefined || checkpoint.deleted_at !== null) return undefined
    const billed = name
      .split(':')
      .slice(-(given === undefined ? 1 : 2))
      .join(':')
    const { hosts } = this.#options
    if (row.spec.method.adaptation === 'full') {
      return { ...(await hosts.of(row.project_id, checkpoint.id, checkpoint.name)), name, billed }
    }
    const { checkpoint: base, model: named } = row.spec.base
    return { ...(await hosts.of(row.project_id, base, named)), name, billed, adapter: checkpoint.id }
  }

  /** Of another project that lets this one use it. */
  async #granted(project: string, name: string): Promise<TuningRow | undefined> {
    const [grant] = await this.#grants.of(project, name)
    const row = grant && (await this.#nouns.get(grant.spec.tuning))
    return row?.deleted_at === null ? row : undefined
  }

  async list(project: string): Promise<readonly Model[]> {
    const { rows } = await this.#nouns.list({ project, limit: jobsMax, descending: true })
    const checkpoints = await this.#checkpointsOf(project, rows)
    const tuned = rows.flatMap((row) => {
      const own = checkpoints.filter(({ job_id }) => job_id === jobIdOf(row.id))
      const steps = own.map((one) => modelOf(checkpointName(row.name, one.step), one.created_at, project))
      const isDone = own.some(({ step }) => step === lastStepOf(row))
      return isDone ? [modelOf(row.name, row.status.finishedMs ?? row.updated_at, project), ...steps] : steps
    })
    const granted = await this.#grants.of(project)
    const lent = granted.map(({ model, created_at, project_id }) => modelOf(model, created_at, project_id))
    return [...(await this.#bases(project)), ...tuned, ...lent]
  }

  /** Those that a job may start from. */
  async #bases(project: string): Promise<Model[]> {
    const { models } = this.#options
    const { rows } = await models.nouns.list({ project, limit: modelsMax })
    const found: Model[] = []
    for (const row of rows) {
      const newest = (await models.releases(row, { limit: 1 })).rows[0]
      if (newest === undefined || !(await isTunable(models, newest.checkpoint_id))) continue
      found.push({ ...modelOf(row.name, newest.created_at, project), fine_tunable: true })
    }
    return found
  }

  async #checkpointsOf(project: string, rows: readonly TuningRow[]): Promise<CheckpointRow[]> {
    if (rows.length === 0) return []
    const jobs = rows.map(({ id }) => jobIdOf(id))
    const page = await this.#options.checkpoints.nouns.list({
      project,
      where: (is) => is.and([is('job_id', 'in', jobs)]),
      limit: checkpointsMax,
      descending: true,
    })
    return page.rows
  }
}

/** Before its end a job has checkpoints, and no model yet. */
function lastStepOf({ status: { outcome, plan } }: TuningRow): number | undefined {
  return outcome === 'succeeded' ? plan?.steps : undefined
}

function modelOf(id: string, createdMs: number, project: string): Model {
  return { id, object: 'model', created: Math.floor(createdMs / 1000), owned_by: project }
}
