/**
 * Checkpoint permissions of OpenAI's API: another project may ask for a fine-tuned model under its name. The model stays
 * where it is, and is answered by the deployments of its own project; who asks pays.
 */
import { Problem } from '../../http/problem.ts'
import { type NounRow, Nouns } from '../store/nouns.ts'
import { cursorAt, type Page } from '../store/pages.ts'
import type { Store } from '../store/store.ts'
import { ownId, type TuningRow } from './rows.ts'

/** Of the project whose job made the model; its name is the model's and the other project's. */
export interface GrantRow extends NounRow {
  readonly spec: { readonly tuning: string }
  readonly status: Record<string, never>
  /** As it was named: what a job ended with, or one of its checkpoints. */
  readonly model: string
  /** The id of the project that may ask for it. */
  readonly granted: string
}

export interface GrantList {
  readonly limit: number
  readonly after?: string | undefined
  readonly descending: boolean
  readonly granted?: string | undefined
}

/** Projects that one model is given to. */
const grantsMax = 1000

export class Grants {
  readonly nouns: Nouns<GrantRow>

  constructor(store: Store) {
    this.nouns = new Nouns<GrantRow>(store, 'tuning_grants', 'cp')
  }

  /** Again, and it is the same one. */
  async give(tuning: TuningRow, model: string, granted: string): Promise<GrantRow> {
    const { rows } = await this.list(tuning.project_id, model, { limit: grantsMax, descending: false })
    if (rows.length >= grantsMax)
      throw new Problem(400, 'too_many_permissions', `At most ${grantsMax} projects may use one model.`)
    const name = `${model} ${granted}`
    const values = { project_id: tuning.project_id, name, spec: { tuning: tuning.id }, status: {} }
    const row =
      (await this.nouns.insert({ ...values, model, granted })) ??
      (await this.nouns.named(tuning.project_id, name))
    if (row !== undefined) return row
    throw new Problem(409, 'conflict', 'The permission was deleted at the same time. Try again.')
  }

  async list(
    project: string,
    model: string,
    { limit, after, descending, granted }: GrantList,
  ): Promise<Page<GrantRow>> {
    return await this.nouns.list({
      ...{ project, limit, descending },
      where: (is) =>
        is.and([is('model', '=', model), ...(granted === undefined ? [] : [is('granted', '=', granted)])]),
      ...(after !== undefined && { cursor: cursorAt(ownId(after), descending) }),
    })
  }

  /** Requests that were let in are answered. */
  async take(project: string, model: string, shown: string): Promise<GrantRow> {
    const row = await this.nouns.get(ownId(shown))
    if (row === undefined || row.project_id !== project || row.model !== model)
      throw new Problem(404, 'permission_not_found', `No such permission: ${shown.slice(0, 100)}.`, {
        param: 'permission_id',
      })
    await this.nouns.purge(row.id)
    return row
  }

  /** What a project may ask for that is another's, by name or all of it. */
  async of(granted: string, model?: string): Promise<GrantRow[]> {
    const { rows } = await this.nouns.list({
      where: (is) =>
        is.and([is('granted', '=', granted), ...(model === undefined ? [] : [is('model', '=', model)])]),
      limit: grantsMax,
    })
    return rows
  }
}
