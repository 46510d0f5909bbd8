/**
 * Models: names under which checkpoints are put to use. Each checkpoint that is promoted becomes a version with a
 * number; an alias such as `prod` names one of them and can be moved to another, forth and back.
 */
import { UserError } from '../../base/errors.ts'
import { ownValue } from '../../base/own.ts'
import { deleteSoftly, purgeDeleted, restoreDeleted } from '../store/deletion.ts'
import { recordEvent } from '../store/events.ts'
import { Nouns } from '../store/nouns.ts'
import { type Page, type PageQuery, readPage } from '../store/pages.ts'
import type { Store } from '../store/store.ts'
import { type Checkpoints, nodeOf } from './checkpoints.ts'
import { type LineageNode, recordLineage } from './lineage.ts'
import type { CheckpointRow, ModelRow, ReleaseRow, ReleaseTables } from './rows.ts'
import { refuseUsed } from './uses.ts'

export interface Promotion {
  readonly model: string
  /** Moved to the version, if given. */
  readonly alias?: string | undefined
  readonly message: string
}

export interface ResolvedModel {
  readonly model: ModelRow
  readonly release: ReleaseRow
  readonly checkpoint: CheckpointRow
}

const aliasesMax = 100

export class Models {
  readonly store: Store
  readonly nouns: Nouns<ModelRow>
  readonly #checkpoints: Checkpoints

  constructor(checkpoints: Checkpoints) {
    this.store = checkpoints.store
    this.nouns = new Nouns<ModelRow>(this.store, 'models', 'model')
    this.#checkpoints = checkpoints
  }

  /** Makes a version of a checkpoint, the model too when there is none of that name; the same twice is one version. */
  promote(project: string, checkpoint: CheckpointRow, { model: name, alias, message }: Promotion) {
    return this.store.transaction(async (): Promise<ResolvedModel> => {
      // Written to, so that it is not deleted in between.
      const held = await this.#checkpoints.nouns.update(checkpoint, {})
      if (held === undefined) throw meanwhile(checkpoint.name)
      const before = (await this.nouns.named(project, name)) ?? (await this.#create(project, name))
      const known = await this.#releaseOf(before, checkpoint.id)
      const release = known ?? (await this.#release(before, held, message))
      const latest = Math.max(before.latest, release.number)
      const aliases = withAlias(before.status.aliases, alias, release.number)
      const model = await this.nouns.update(before, { latest, status: { aliases } })
      if (model === undefined) throw meanwhile(name)
      if (alias !== undefined)
        await this.#recordMove(model, alias, ownValue(before.status.aliases, alias), release.number)
      return { model, release, checkpoint: held }
    })
  }

  /** Moves an alias to a version that there is, or takes it away. */
  setAlias(model: ModelRow, alias: string, number: number | undefined): Promise<ModelRow> {
    return this.store.transaction(async () => {
      if (number !== undefined) await this.#numbered(model, number)
      const { [alias]: _, ...rest } = model.status.aliases
      const before = ownValue(model.status.aliases, alias)
      const aliases = number === undefined ? rest : withAlias(rest, alias, number)
      const updated = await this.nouns.update(model, { status: { aliases } })
      if (updated === undefined) throw meanwhile(model.name)
      await this.#recordMove(updated, alias, before, number)
      return updated
    })
  }

  /** `name` (its newest version), `name@3`, `name:prod`. */
  async resolve(project: string, reference: string): Promise<ResolvedModel> {
    const [, typed = '', number, alias] = /^(.*?)(?:@(\d{1,9})|:([a-z0-9._-]{1,63}))?$/s.exec(reference) ?? []
    const model = await this.find(project, typed)
    const release = await this.#numbered(
      model,
      number !== undefined ? Number(number) : this.#aliased(model, alias),
    )
    const checkpoint = await this.#checkpoints.nouns.get(release.checkpoint_id)
    if (checkpoint !== undefined) return { model, release, checkpoint }
    throw new UserError(`The checkpoint of ${model.name}@${release.number} is gone.`, {
      failure: 'not_found',
    })
  }

  async find(project: string, typed: string): Promise<ModelRow> {
    const [found, another] = await this.nouns.find(project, typed, 2)
    if (found !== undefined && another === undefined) return found
    const what = JSON.stringify(typed.slice(0, 100))
    throw new UserError(
      found === undefined ? `There is no model ${what}.` : `Several models begin with ${what}.`,
      {
        failure: found === undefined ? 'not_found' : 'usage',
        fix: '`ropeway model list` shows which there are.',
      },
    )
  }

  releases(model: ModelRow, page: PageQuery): Promise<Page<ReleaseRow>> {
    const query = this.store.db<ReleaseTables>().selectFrom('model_versions').selectAll()
    return readPage(query.where('model_id', '=', model.id), { sort: 'number', descending: true, ...page })
  }

  /** Refused for what is in use. */
  delete(model: ModelRow): Promise<void> {
    return this.store.transaction(async () => {
      // Written to first, so that nobody begins to use it in between.
      if ((await this.hold(model.id)) === undefined) return
      const uses = await this.#checkpoints.usesIn(model.project_id)
      refuseUsed(
        model.name,
        uses.filter((use) => use.model === model.id),
      )
      await deleteSoftly(this.nouns, model.id)
    })
  }

  /** In a transaction: whether it is there, and stays until the end of it. */
  async hold(id: string): Promise<ModelRow | undefined> {
    const row = await this.nouns.change(id, (now) => (now.deleted_at === null ? {} : undefined))
    return row?.deleted_at === null ? row : undefined
  }

  restore(project: string, id: string): Promise<ModelRow> {
    return restoreDeleted(this.nouns, project, id)
  }

  purge(): Promise<number> {
    return purgeDeleted(this.nouns, async ({ id }) => {
      await this.store.db<ReleaseTables>().deleteFrom('model_versions').where('model_id', '=', id).execute()
    })
  }

  async #create(project: string, name: string): Promise<ModelRow> {
    const made = await this.nouns.insert({
      project_id: project,
      name,
      spec: { description: '' },
      status: { aliases: {} },
      latest: 0,
    })
    if (made === undefined) throw meanwhile(name)
    await this.#record(made, 'model.created', 'It was created.')
    return made
  }

  async #release(model: ModelRow, checkpoint: CheckpointRow, message: string): Promise<ReleaseRow> {
    const release: ReleaseRow = {
      id: this.store.ids.next('release'),
      project_id: model.project_id,
      model_id: model.id,
      number: model.latest + 1,
      checkpoint_id: checkpoint.id,
      message,
      created_at: this.store.clock.unixMs(),
    }
    await this.store.db<ReleaseTables>().insertInto('model_versions').values(release).execute()
    await recordLineage(this.store, model.project_id, {
      from: nodeOf(checkpoint),
      to: releaseNode(model, release),
    })
    await this.#record(model, 'model.version', `Version ${release.number} is ${checkpoint.name}.`, {
      number: release.number,
      checkpoint: checkpoint.id,
    })
    return release
  }

  #releaseOf(model: ModelRow, checkpoint: string): Promise<ReleaseRow | undefined> {
    const query = this.store.db<ReleaseTables>().selectFrom('model_versions').selectAll()
    return query.where('model_id', '=', model.id).where('checkpoint_id', '=', checkpoint).executeTakeFirst()
  }

  async #numbered(model: ModelRow, number: number): Promise<ReleaseRow> {
    const query = this.store.db<ReleaseTables>().selectFrom('model_versions').selectAll()
    const release = await query
      .where('model_id', '=', model.id)
      .where('number', '=', number)
      .executeTakeFirst()
    if (release !== undefined) return release
    throw new UserError(`${model.name} has no version ${number}; the newest is ${model.latest}.`, {
      failure: 'not_found',
    })
  }

  #aliased(model: ModelRow, alias: string | undefined): number {
    if (alias === undefined) return model.latest
    const number = ownValue(model.status.aliases, alias)
    if (number !== undefined) return number
    const there = Object.keys(model.status.aliases).join(', ') || 'none'
    throw new UserError(`${model.name} has no alias ${alias}; it has: ${there}.`, {
      failure: 'not_found',
      fix: `Set it: \`ropeway model promote CHECKPOINT ${model.name} --as ${alias}\`.`,
    })
  }

  async #recordMove(model: ModelRow, alias: string, from: number | undefined, to: number | undefined) {
    if (from === to) return
    const was = from === undefined ? '' : ` It was version ${from} before.`
    const message = `${alias} ${to === undefined ? 'was taken away.' : `is version ${to} now.`}${was}`
    await this.#record(model, 'model.alias', message, { alias, from: from ?? null, to: to ?? null })
  }

  async #record(model: ModelRow, kind: string, message: string, details: Record<string, unknown> = {}) {
    await recordEvent(this.store, { subject: model.id, project: model.project_id, kind, message, details })
  }
}

export function releaseNode(model: ModelRow, { id, number }: ReleaseRow): LineageNode {
  return { id, label: `model ${model.name}@${number}` }
}

function withAlias(aliases: Readonly<Record<string, number>>, alias: string | undefined, number: number) {
  if (alias === undefined) return aliases
  const next = { ...aliases, [alias]: number }
  if (Object.keys(next).length <= aliasesMax) return next
  throw new UserError(`A model has at most ${aliasesMax} aliases.`, {
    failure: 'conflict',
    fix: 'Take one away.',
  })
}

function meanwhile(name: string): UserError {
  return new UserError(`${name} was changed by somebody else at the same time.`, {
    failure: 'conflict',
    fix: 'Look at it and try again.',
  })
}
