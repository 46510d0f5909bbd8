/**
 * Adapters that trainings publish to deployments: `NAME:latest` is the newest that a job has given to the deployment
 * NAME. Each publication is a checkpoint of the project that never changes, and the row says which one new requests
 * get; so going back is one write, and requests in flight end on what they began with.
 */
import type { Model } from '../../api/models.ts'
import { UserError } from '../../base/errors.ts'
import type { LateModel, LateModels } from '../gateway/late-models.ts'
import type { Checkpoints } from '../models/checkpoints.ts'
import { recordEvent } from '../store/events.ts'
import { type NounRow, Nouns } from '../store/nouns.ts'
import { AdapterBases } from './adapter-base.ts'
import { type DeploymentRow, deploymentNouns } from './rows.ts'

export interface Published {
  /** From 1; answers name it: `NAME:latest@7`. */
  readonly number: number
  readonly checkpoint: string
  readonly job: string
  readonly step: number
  /** The checkpoint that it was trained on, where that is one of the project. */
  readonly base?: string | undefined
  /** Unix milliseconds. */
  readonly at: number
}

/** Its name is `NAME:latest`. */
export interface PublicationRow extends NounRow {
  readonly spec: { readonly deployment: string }
  readonly status: {
    /** The newest, whatever new requests get. */
    readonly newest: Published
    readonly current: Published
    /** What a rollback gives them. */
    readonly previous: Published | null
    /** The last step of each job that published here, of the job that did so last at the end; rows of before have none. */
    readonly steps?: Readonly<Record<string, number>>
  }
}

/** The step that `job` published last; undefined when that was never, or {@link jobsMax} jobs ago. */
export function lastStepOf({ status: { newest, steps } }: PublicationRow, job: string): number | undefined {
  return steps?.[job] ?? (newest.job === job ? newest.step : undefined)
}

/** What a name means, read at once. */
interface Known {
  readonly row: PublicationRow
  readonly deployment: DeploymentRow
}

const publishedMax = 500
/** Jobs whose last step is remembered. */
const jobsMax = 100
const part = 'latest'
/** Deployments that are remembered, and for how long: another server's publication is seen after that. */
const knownMax = 1000
const knownMs = 1000

export class Publications implements LateModels {
  readonly nouns: Nouns<PublicationRow>
  readonly #checkpoints: Checkpoints
  readonly #bases: AdapterBases
  readonly #known = new Map<string, { found: Promise<Known | undefined>; untilMs: number }>()

  constructor(checkpoints: Checkpoints) {
    this.#checkpoints = checkpoints
    this.#bases = new AdapterBases(checkpoints)
    this.nouns = new Nouns<PublicationRow>(checkpoints.store, 'publications', 'pub')
  }

  /** Undefined when nothing was published to the deployment, or to an earlier one of its name. */
  async of(project: string, deployment: string): Promise<PublicationRow | undefined> {
    return (await this.#read(project, deployment))?.row
  }

  async #read(project: string, name: string): Promise<Known | undefined> {
    const row = await this.nouns.named(project, `${name}:${part}`)
    if (row === undefined) return undefined
    const deployment = await deploymentNouns(this.nouns.store).named(project, name)
    return deployment?.id === row.spec.deployment ? { row, deployment } : undefined
  }

  /** Remembered for a second under load, and forgotten at once when something is published or rolled back here. */
  async #look(project: string, name: string): Promise<Known | undefined> {
    const key = keyOf(project, name)
    const nowMs = this.nouns.store.clock.nowMs()
    const known = this.#known.get(key)
    if (known !== undefined && known.untilMs > nowMs) return await known.found
    if (this.#known.size >= knownMax) this.#known.clear()
    const entry = { found: this.#read(project, name), untilMs: nowMs + knownMs }
    this.#known.set(key, entry)
    entry.found.catch(() => this.#known.delete(key))
    return await entry.found
  }

  #forget(project: string, name: string): void {
    this.nouns.store.afterCommit(() => this.#known.delete(keyOf(project, name)))
  }

  /** Throws {@link Problem} when the deployment serves another model than the adapter was trained on. */
  async find(project: string, name: string): Promise<LateModel | undefined> {
    const [, deployment, given] = /^([^:]{1,63}):latest(?:@(\d{1,9}))?$/.exec(name) ?? []
    const known = deployment === undefined ? undefined : await this.#look(project, deployment)
    if (known === undefined || deployment === undefined) return undefined
    const { current, previous, newest } = known.row.status
    const all = [current, newest, ...(previous === null ? [] : [previous])]
    const meant = given === undefined ? current : all.find(({ number }) => number === Number(given))
    if (meant === undefined) return undefined
    const { number, checkpoint, base } = meant
    const answering = `${deployment}:${part}@${number}`
    const bearers = await this.#bases.bearersOf(known.deployment, answering, base)
    const version = bearers.all ? {} : { version: bearers.version }
    return { deployment, ...version, name: answering, billed: part, adapter: checkpoint }
  }

  async list(project: string): Promise<readonly Model[]> {
    const page = { project, limit: publishedMax }
    const there = (await deploymentNouns(this.nouns.store).list(page)).rows.map(({ id }) => id)
    const { rows } = await this.nouns.list(page)
    const live = rows.filter(({ spec }) => there.includes(spec.deployment))
    return live.map(({ name, updated_at }) => ({
      ...{ id: name, object: 'model' as const },
      ...{ created: Math.floor(updated_at / 1000), owned_by: project },
    }))
  }

  /** What may be published to; throws UserError when it is not there. */
  async deployment(project: string, name: string): Promise<DeploymentRow> {
    const row = await deploymentNouns(this.nouns.store).named(project, name)
    if (row !== undefined && row.ending === 0) return row
    throw new UserError(`The project has no deployment ${name}.`, {
      failure: 'not_found',
      fix: `ropeway deployment create ${name} --model MODEL`,
    })
  }

  /** Throws UserError when it is not there, or serves another model than an adapter of `base` is for. */
  async accepting(project: string, name: string, base: string | undefined): Promise<DeploymentRow> {
    const row = await this.deployment(project, name)
    await this.#bases.refuseOther(row, base)
    return row
  }

  /** New requests get it from now on. What nobody can go back to any more is deleted. */
  async publish(
    project: string,
    deployment: string,
    { checkpoint, job, step, base }: Pick<Published, 'checkpoint' | 'job' | 'step' | 'base'>,
  ): Promise<PublicationRow> {
    const { store } = this.nouns
    return await store.transaction(async () => {
      const target = await this.accepting(project, deployment, base)
      const before = await this.of(project, deployment)
      const number = (before?.status.newest.number ?? 0) + 1
      const next: Published = { number, checkpoint, job, step, base, at: store.clock.unixMs() }
      const name = `${deployment}:${part}`
      const { [job]: _, ...others } = before?.status.steps ?? {}
      const steps = Object.fromEntries([...Object.entries(others).slice(1 - jobsMax), [job, step]])
      const status = { newest: next, current: next, previous: before?.status.current ?? null, steps }
      const row =
        before === undefined
          ? await this.#begin(project, name, target.id, status)
          : await this.nouns.update(before, { status })
      if (row === undefined) throw new UserError(`${name} was published by somebody else at the same time.`)
      await this.#tell(row, target.id, `${name} is ${name}@${number}, of step ${step} of ${job}.`)
      await this.#dropUnreachable(before, status)
      this.#forget(project, deployment)
      return row
    })
  }

  async #begin(project: string, name: string, deployment: string, status: PublicationRow['status']) {
    // Of a deployment of this name that is gone.
    const old = await this.nouns.named(project, name)
    if (old !== undefined) await this.nouns.purge(old.id)
    return await this.nouns.insert({ project_id: project, name, spec: { deployment }, status })
  }

  /** New requests get the one before; again, and they get the later one. */
  async rollback(project: string, deployment: string): Promise<PublicationRow> {
    const { store } = this.nouns
    return await store.transaction(async () => {
      const row = await this.of(project, deployment)
      const previous = row?.status.previous ?? null
      if (row === undefined || previous === null)
        throw new UserError(`${deployment}:${part} has no version to go back to.`, { failure: 'conflict' })
      const status = { ...row.status, current: previous, previous: row.status.current }
      const changed = await this.nouns.update(row, { status })
      if (changed === undefined)
        throw new UserError('It was changed at the same time.', { failure: 'conflict', fix: 'Try again.' })
      const message = `${row.name} is ${row.name}@${previous.number} again.`
      await this.#tell(changed, row.spec.deployment, message)
      this.#forget(project, deployment)
      return changed
    })
  }

  async #dropUnreachable(
    before: PublicationRow | undefined,
    { current, previous }: PublicationRow['status'],
  ): Promise<void> {
    if (before === undefined) return
    const kept = new Set([current.checkpoint, previous?.checkpoint])
    for (const { checkpoint } of [
      before.status.newest,
      ...(before.status.previous ? [before.status.previous] : []),
    ]) {
      const row = kept.has(checkpoint) ? undefined : await this.#checkpoints.nouns.get(checkpoint)
      if (row === undefined || row.deleted_at !== null) continue
      try {
        await this.#checkpoints.delete(row, 'A later one was published.')
      } catch (error) {
        // Somebody made a version of a model of it.
        if (!(error instanceof UserError)) throw error
      }
    }
  }

  async #tell(row: PublicationRow, deployment: string, message: string): Promise<void> {
    const { project_id: project } = row
    await recordEvent(this.nouns.store, {
      subject: deployment,
      project,
      kind: 'deployment.published',
      message,
    })
  }
}

function keyOf(project: string, deployment: string): string {
  return `${project} ${deployment}`
}
