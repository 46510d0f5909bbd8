/** What the names in a deployment mean: models and checkpoints of its project, or the operator's own on this machine. */
import { UserError } from '../../base/errors.ts'
import { type Checkpoints, nodeOf } from '../models/checkpoints.ts'
import { servedAs } from '../models/model-folders.ts'
import { type Models, releaseNode } from '../models/models.ts'
import type { Source } from './rows.ts'

export type SourceKind = 'model' | 'adapter'

/** How deployments learn what they serve. */
export interface Sources {
  /**
   * What a name means now, in the transaction that makes a version of it. Undefined for what lies on the machine.
   * Throws UserError when there is none that the project may use, or when it cannot be served.
   */
  resolve(project: string, reference: string, kind: SourceKind): Promise<Source | undefined>
  /** In a transaction: whether it can still be served, and stays until the end of it. */
  hold(source: Source): Promise<boolean>
}

const localPrefix = 'local:'
const checkpointPrefix = /^checkpoint[:_]/

/** The name in `local:NAME`: a model of the operator's, in the models folder of the machine. */
export function localName(reference: string): string | undefined {
  return reference.startsWith(localPrefix) ? reference.slice(localPrefix.length) : undefined
}

export class ModelSources implements Sources {
  readonly #models: Models
  readonly #checkpoints: Checkpoints
  /** Why a name of the models folder cannot be used; undefined when it can. */
  readonly #faultOfLocal: (name: string) => string | undefined

  constructor(
    models: Models,
    checkpoints: Checkpoints,
    faultOfLocal: (name: string) => string | undefined = () => undefined,
  ) {
    this.#models = models
    this.#checkpoints = checkpoints
    this.#faultOfLocal = faultOfLocal
  }

  async resolve(project: string, reference: string, kind: SourceKind): Promise<Source | undefined> {
    const local = localName(reference)
    if (local !== undefined) {
      const fault = this.#faultOfLocal(local)
      if (fault === undefined) return undefined
      throw new UserError(fault, { failure: 'not_found' })
    }
    const source = checkpointPrefix.test(reference)
      ? await this.#checkpoint(project, reference.replace(/^checkpoint:/, ''))
      : await this.#model(project, reference)
    await this.#check(source, reference, kind)
    if (await this.hold(source)) return source
    throw new UserError(`${reference} was deleted at the same time.`, { failure: 'conflict' })
  }

  async hold({ checkpoint, model }: Source): Promise<boolean> {
    if (model !== undefined && (await this.#models.hold(model)) === undefined) return false
    return (await this.#checkpoints.hold(checkpoint)) !== undefined
  }

  async #checkpoint(project: string, typed: string): Promise<Source> {
    const row = await this.#checkpoints.find(project, typed)
    return { checkpoint: row.id, node: nodeOf(row) }
  }

  async #model(project: string, reference: string): Promise<Source> {
    try {
      const { model, release, checkpoint } = await this.#models.resolve(project, reference)
      return { checkpoint: checkpoint.id, model: model.id, node: releaseNode(model, release) }
    } catch (error) {
      if (!(error instanceof UserError) || error.failure !== 'not_found') throw error
      const isLocal = this.#faultOfLocal(reference) === undefined
      throw new UserError(error.message, {
        failure: 'not_found',
        fix: isLocal
          ? `The one in the models folder of this machine is ${localPrefix}${reference}.`
          : '`ropeway model` lists them. Make one of a checkpoint: `ropeway model promote CHECKPOINT NAME`; ' +
            'or name the checkpoint itself: checkpoint:NAME.',
      })
    }
  }

  async #check({ checkpoint }: Source, reference: string, kind: SourceKind): Promise<void> {
    const row = await this.#checkpoints.nouns.get(checkpoint)
    const files = row === undefined ? [] : await this.#checkpoints.files(row)
    const found = servedAs(files.map(({ path }) => path))
    if (found !== undefined && (found === 'adapter') === (kind === 'adapter')) return
    const [what, fix] =
      found === undefined
        ? ['has neither a config.json nor a GGUF file', 'Upload the whole folder of the model.']
        : kind === 'adapter'
          ? ['is a model and no adapter', 'Serve it as the model of a version.']
          : ['is an adapter and no model', 'Serve it beside its base: model BASE, adapter NAME=THIS.']
    throw new UserError(`${reference} ${what}.`, { failure: 'usage', fix })
  }
}
