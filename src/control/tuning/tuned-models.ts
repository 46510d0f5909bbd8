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
import type { Hosts } from './hosts.ts'
import { checkpointName, jobIdOf, type TuningRow, tuningNouns } from './rows.ts'

export interface TunedModelsOptions {
  readonly models: Models
  readonly checkpoints: Checkpoints
  readonly hosts: Hosts
}

const nameCharactersMax = 500
const knownMax = 1000
const knownMs = 1000
const jobsMax = 200
const modelsMax = 200
const checkpointsMax = 1000

export class TunedModels implements LateModels {
  readonly #options: TunedModelsOptions
  readonly #nouns: Nouns<TuningRow>
  readonly #known = new Map<string, { model: Promise<LateModel | undefined>; untilMs: number }>()

  constructor(options: TunedModelsOptions) {
    this.#options = options
    this.#nouns = tuningNouns(options.models.store)
  }

  /** Remembered for a second: under load, names repeat. */
  async find(project: string, name: string): Promise<LateModel | undefined> {
    if (!name.startsWith('ft:') || name.length > nameCharactersMax) return undefined
    const key = `${project} ${name}`
    const nowMs = this.#options.models.store.clock.nowMs()
    const known = this.#known.get(key)
    if (known !== undefined && known.untilMs > nowMs) return await known.model
    if (this.#known.size >= knownMax) this.#known.clear()
    const model = this.#find(project, name)
    this.#known.set(key, { model, untilMs: nowMs + knownMs })
    model.catch(() => this.#known.delete(key))
    return await model
  }

  async #find(project: string, name: string): Promise<LateModel | undefined> {
    const [, model, given] = /^(ft:.{1,400}?)(?::ckpt-step-(\d{1,12}))?$/s.exec(name) ?? []
    const row = model === undefined ? undefined : await this.#nouns.named(project, model)
    if (row === undefined) return undefined
    const step = given === undefined ? lastStepOf(row) : Number(given)
    const checkpoint =
      step === undefined ? undefined : await this.#options.checkpoints.jobStep(jobIdOf(row.id), step)
    if (checkpoint === undefined || checkpoint.deleted_at !== null) return undefined
    const billed = name
      .split(':')
      .slice(-(given === undefined ? 1 : 2))
      .join(':')
    const { hosts } = this.#options
    if (row.spec.method.adaptation === 'full') {
      return { ...(await hosts.of(project, checkpoint.id, checkpoint.name)), name, billed }
    }
    const { checkpoint: base, model: named } = row.spec.base
    return { ...(await hosts.of(project, base, named)), name, billed, adapter: checkpoint.id }
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
    return [...(await this.#bases(project)), ...tuned]
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
