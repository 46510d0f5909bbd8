/** `/v1/fine_tuning/checkpoints/NAME/permissions`: which other projects of the organisation may use a fine-tuned model. */
import { z } from 'zod'
import { queryInteger, storableText } from '../../api/control/fields.ts'
import { Problem } from '../../http/problem.ts'
import type { ProjectSeen } from '../service/actor.ts'
import { seeProject } from '../service/authorise.ts'
import type { ServiceContext } from '../service/context.ts'
import type { GrantRow, Grants } from './grants.ts'
import { listOf, type On } from './handlers.ts'
import { shownId, type TuningRow } from './rows.ts'
import type { Tunings } from './tunings.ts'

const path = '/fine_tuning/checkpoints/:model/permissions'
const projectsMax = 100
const createBody = z.strictObject({ project_ids: z.array(storableText(100, 1)).min(1).max(projectsMax) })
const listQuery = z.object({
  after: storableText(100, 1).optional(),
  limit: queryInteger(1, 100).default(10),
  order: z.enum(['ascending', 'descending']).default('descending'),
  project_id: storableText(100, 1).optional(),
})

export interface GrantRoutesOptions {
  readonly grants: Grants
  readonly tunings: Tunings
}

/** Whoever may let people into a project may let other projects use its models. */
export function grantRoutes(
  on: On,
  { grants, tunings }: GrantRoutesOptions,
  { store }: ServiceContext,
): void {
  const meant = async (project: string, model: string): Promise<TuningRow> => {
    const row = await tunings.ofModel(project, model)
    if (row !== undefined) return row
    throw new Problem(404, 'model_not_found', `This project has made no model '${model.slice(0, 200)}'.`, {
      param: 'fine_tuned_model_checkpoint',
    })
  }
  on('POST', path, 'member:create', async ({ project, actor, params, body, audit }) => {
    const model = params.model!
    const tuning = await meant(project.id, model)
    const targets: ProjectSeen[] = []
    for (const typed of body(createBody).project_ids) {
      const target = await seeProject(store, actor, typed, 'project:view')
      if (target.organisationId !== project.organisationId || target.id === project.id)
        throw new Problem(
          400,
          'invalid_project',
          `${typed} is not another project of the same organisation.`,
          {
            param: 'project_ids',
          },
        )
      targets.push(target)
    }
    const rows = await store.transaction(async () => {
      const given: GrantRow[] = []
      for (const { id } of targets) given.push(await grants.give(tuning, model, id))
      return given
    })
    for (const row of rows) await audit('tuning.grant', row.id)
    return listOf(rows.map(viewOf), false)
  })
  on('GET', path, 'member:view', async ({ project, params, query }) => {
    const { order, project_id: granted, ...page } = query(listQuery)
    await meant(project.id, params.model!)
    const { rows, next } = await grants.list(project.id, params.model!, {
      ...{ ...page, granted },
      descending: order === 'descending',
    })
    return listOf(rows.map(viewOf), next !== undefined)
  })
  on('DELETE', `${path}/:permission`, 'member:delete', async ({ project, params, audit }) => {
    const row = await grants.take(project.id, params.model!, params.permission!)
    await audit('tuning.ungrant', row.id)
    return { id: shownId(row.id), object: 'checkpoint.permission', deleted: true }
  })
}

function viewOf({ id, created_at, granted }: GrantRow) {
  return {
    ...{ id: shownId(id), object: 'checkpoint.permission' as const },
    ...{ created_at: Math.floor(created_at / 1000), project_id: granted },
  }
}
