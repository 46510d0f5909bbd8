/** Which model a fine-tuning job starts from: a model of the project, or the one that a deployment of it serves. */
import { UserError } from '../../base/errors.ts'
import { Problem } from '../../http/problem.ts'
import { filesOf } from '../blobs/files.ts'
import { deploymentNouns } from '../deployments/rows.ts'
import type { Models } from '../models/models.ts'

export interface BaseModel {
  readonly checkpoint: string
  readonly model: string
}

/** Throws {@link Problem} that says which may be named. */
export async function baseModelOf(models: Models, project: string, typed: string): Promise<BaseModel> {
  const found = (await deployedModel(models, project, typed)) ?? (await namedModel(models, project, typed))
  if (found === undefined) {
    throw new Problem(
      404,
      'model_not_found',
      `There is no model '${typed.slice(0, 100)}' to fine-tune; GET /v1/models lists those there are.`,
      { param: 'model' },
    )
  }
  if (!(await isTunable(models, found.checkpoint))) {
    throw new Problem(
      400,
      'model_not_available',
      `'${typed.slice(0, 100)}' cannot be fine-tuned: it takes a whole model with config.json and safetensors.`,
      { param: 'model' },
    )
  }
  return found
}

async function deployedModel(models: Models, project: string, name: string): Promise<BaseModel | undefined> {
  const row = await deploymentNouns(models.store).named(project, name)
  const version = row?.spec.versions.find(({ id }) => id === (row.status.serving ?? row.spec.target))
  const source = version?.sources?.[version.model]
  if (source === undefined) return undefined
  const model = source.model === undefined ? undefined : await models.nouns.get(source.model)
  return { checkpoint: source.checkpoint, model: model?.name ?? name }
}

async function namedModel(
  models: Models,
  project: string,
  reference: string,
): Promise<BaseModel | undefined> {
  try {
    const found = await models.resolve(project, reference)
    // The beginning of a name is for people at a keyboard; a program means what it says.
    const isWhole = reference.split(/[@:]/, 1)[0] === found.model.name || reference === found.model.id
    return isWhole ? { checkpoint: found.checkpoint.id, model: found.model.name } : undefined
  } catch (error) {
    if (error instanceof UserError) return undefined
    throw error
  }
}

/** Adapters and single GGUF files are no place to start from. */
export async function isTunable(models: Models, checkpoint: string): Promise<boolean> {
  const paths = (await filesOf(models.store, checkpoint)).map(({ path }) => path)
  const isAdapter = paths.includes('adapter_config.json') && !paths.includes('model.safetensors')
  return !isAdapter && paths.includes('config.json') && paths.some((path) => path.endsWith('.safetensors'))
}
