/** Job files that a project keeps under a name, with the folder that they were saved with. */
import type { CreateJob } from '../../api/control/jobs.ts'
import { UserError } from '../../base/errors.ts'
import type { Migration } from '../store/migrations.ts'
import { createNounTable, holdToVersion, type NounRow, Nouns } from '../store/nouns.ts'
import type { Page, PageQuery } from '../store/pages.ts'
import type { Store } from '../store/store.ts'

export interface TemplateRow extends NounRow {
  readonly spec: Pick<CreateJob, 'file' | 'workspace'>
}

export const templatesMigration: Migration = {
  name: '0320-job-templates',
  async up(db, types) {
    await createNounTable(db, types, { table: 'job_templates', uniqueNames: true })
  },
}

export function templateNouns(store: Store): Nouns<TemplateRow> {
  return new Nouns<TemplateRow>(store, 'job_templates', 'tpl')
}

export function listTemplates(store: Store, project: string, page: PageQuery): Promise<Page<TemplateRow>> {
  return templateNouns(store).list({ project, ...page })
}

export async function findTemplate(store: Store, project: string, name: string): Promise<TemplateRow> {
  const row = await templateNouns(store).named(project, name)
  if (row !== undefined) return row
  throw new UserError(`The project has no template ${name}.`, {
    failure: 'not_found',
    fix: 'List them with: ropeway template',
  })
}

/** A template of this name is replaced; where `version` is given, that one alone. */
export async function saveTemplate(
  store: Store,
  project: string,
  name: string,
  spec: TemplateRow['spec'],
  version?: number,
): Promise<TemplateRow> {
  return await store.transaction(async () => {
    const row = { project_id: project, name, spec, status: {} }
    const made = version === undefined ? await templateNouns(store).insert(row) : undefined
    if (made !== undefined) return made
    const known = await findTemplate(store, project, name)
    const changed = await templateNouns(store).change(known.id, (now) => {
      holdToVersion(now, version, `the template ${name}`)
      return { spec }
    })
    return changed!
  })
}

export async function deleteTemplate(store: Store, project: string, name: string): Promise<string> {
  const { id } = await findTemplate(store, project, name)
  await templateNouns(store).change(id, () => ({ deleted_at: store.clock.unixMs() }))
  return id
}
