/** Steps about templates, jobs and deployments. */
import { dirname } from 'node:path'
import * as deployments from '../../api/control/deployments.ts'
import { createJobEndpoint, viewJob } from '../../api/control/job-endpoints.ts'
import { parseRunJob } from '../../api/control/job-file.ts'
import { saveTemplate, viewTemplate } from '../../api/control/job-templates.ts'
import { jobPlacement } from '../../api/control/jobs.ts'
import type { ManifestOf } from '../../api/control/manifest.ts'
import { UserError } from '../../base/errors.ts'
import { readJobFile } from '../job-file.ts'
import { readWorkspace, sendWorkspace, type Workspace } from '../workspace-upload.ts'
import { changing, creating, differences, exactly, type Planner, type Target, unchanged } from './plan.ts'

interface Work {
  readonly file: Record<string, unknown>
  readonly folder: Workspace | undefined
}

function workOf({ manifest }: Target, { file: path, spec, workspace }: ManifestOf<'job' | 'template'>): Work {
  const file = path === undefined ? spec! : readJobFile(path)
  const folder = workspace ?? (path === undefined ? undefined : dirname(path))
  const out = typeof file.out === 'string' ? file.out : 'out'
  return { file, folder: folder === undefined ? undefined : readWorkspace(folder, [out, manifest]) }
}

async function sent({ client, project }: Target, { file, folder }: Work) {
  return { file, ...(folder !== undefined && { workspace: await sendWorkspace(client, project, folder) }) }
}

export const planTemplate: Planner<'template'> = async (target, wanted) => {
  const { client, project } = target
  const { name } = wanted
  const work = workOf(target, wanted)
  const params = { project, template: name }
  const known = await exactly(name, client.call(viewTemplate, { params }))
  const act = async () => client.call(saveTemplate, { params, body: await sent(target, work) })
  if (known === undefined) return creating(aboutOf(work), act)
  return changing(
    differences(
      { file: known.file, workspace: known.workspace ?? undefined },
      { file: work.file, workspace: work.folder?.id },
    ),
    act,
  )
}

export const planJob: Planner<'job'> = async (target, wanted) => {
  const { client, project } = target
  const { name } = wanted
  const work = workOf(target, wanted)
  const known = await exactly(name, client.call(viewJob, { params: { project, job: name } }))
  const act = async () =>
    client.call(createJobEndpoint, { params: { project }, body: { name, ...(await sent(target, work)) } })
  if (known === undefined) return creating(aboutOf(work), act)
  const changes = differences(
    {
      file: { ...known.file, name: undefined },
      job: known.placement,
      workspace: known.workspace ?? undefined,
    },
    { ...asKept(work.file), workspace: work.folder?.id },
  )
  if (changes.length === 0) return unchanged(`it is there (${known.state})`)
  // A job that was made stays what it is.
  return { does: 'create', says: `another one beside ${known.id} (${known.state})`, changes, act }
}

/** A job file as the service keeps it. Its name is the manifest's. */
function asKept({ job = {}, name: _, ...file }: Record<string, unknown>) {
  const placement = jobPlacement.safeParse(job)
  // What is wrong with it, the service says best.
  const kept = placement.success ? placement.data : job
  return { file: 'run' in file ? { ...file, run: parseRunJob(file).run } : file, job: kept }
}

function aboutOf({ file, folder }: Work): string {
  const what = 'run' in file ? 'a command' : 'training'
  return folder === undefined ? what : `${what}, with ${folder.files.length} files beside it`
}

export const planDeployment: Planner<'deployment'> = async ({ client, project }, wanted) => {
  const { kind: _, project: __, ...body } = wanted
  const { name, version, ...settings } = body
  const params = { project, deployment: name }
  const known = await exactly(name, client.call(deployments.showDeployment, { params }))
  if (known === undefined)
    return creating(version.model, () =>
      client.call(deployments.createDeployment, { params: { project }, body }),
    )
  if (known.state === 'deleting')
    throw new UserError(`The deployment ${name} is being deleted.`, {
      failure: 'conflict',
      fix: 'Apply the file again when it is gone.',
    })
  const {
    id: ___,
    at: ____,
    made_of: _____,
    ...target
  } = known.versions.find(({ id }) => id === known.target)!
  const versions = differences(target, version, 'version')
  const { scaling, rollout, public: isPublic, requestLog, notify, defaults } = known
  const now: Record<string, unknown> = { scaling, rollout, public: isPublic, requestLog, notify, defaults }
  const changed = Object.entries(settings).filter(
    ([field, value]) => differences(now[field], value, field).length > 0,
  )
  const changes = changed.flatMap(([field, value]) => differences(now[field], value, field))
  return changing(
    [...versions, ...changes],
    () =>
      client.call(deployments.updateDeployment, {
        params,
        body: { ...Object.fromEntries(changed), ...(versions.length > 0 && { version }) },
      }),
    versions.length > 0 ? `a new version after ${known.versions.at(-1)!.id}, by its rollout` : '',
  )
}
