/** Reading the YAML files that people write. */
import { existsSync } from 'node:fs'
import { parse } from 'yaml'
import { messageOf, UserError } from '../base/errors.ts'
import { readTextFile } from '../base/files.ts'
import { parseTrainingJob, type TrainingJob } from '../train/job.ts'
import { cacheFolder } from './home.ts'
import { findModel, namedModel } from './text-model.ts'

/** The fields of a job file, not checked yet. */
export function readJobFile(file: string): Record<string, unknown> {
  return readObjectFile(file, 'fields such as model, data and steps')
}

/**
 * The training job of these fields, whose relative paths start at `folder`. A model may be named as everywhere: the
 * folder of a run is its newest checkpoint, RUN@best its best one; what is no path is looked up in the models folder.
 */
export function trainingJobOf(fields: Record<string, unknown>, folder: string): TrainingJob {
  const job = { ...parseTrainingJob(fields, folder), cacheFolder: cacheFolder() }
  if (!('from' in job.model)) return job
  const given = (fields.model as { from: string }).from
  const from = isThere(job.model.from) ? findModel(job.model.from) : namedModel(given)
  if (from === undefined) {
    throw new UserError(`The field model.from names ${job.model.from}, and there is no such model.`, {
      failure: 'not_found',
      fix: 'Give a model folder, a .gguf file, the folder of a run, or the name of a model in the models folder; in a job of the service also model:NAME or checkpoint:NAME. A relative path starts at the folder of the job file.',
    })
  }
  return { ...job, model: { from } }
}

function isThere(path: string): boolean {
  return existsSync(path) || existsSync(path.replace(/@best$/, ''))
}

/** The object in a file of YAML or JSON. `what` it must hold, for the refusal. */
export function readObjectFile(file: string, what = 'an object'): Record<string, unknown> {
  const text = readTextFile(file)
  let value: unknown
  try {
    value = parse(text)
  } catch (error) {
    throw new UserError(`${file} is not YAML: ${messageOf(error)}`, { failure: 'usage', cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UserError(`${file} must hold ${what}.`, { failure: 'usage' })
  }
  return value as Record<string, unknown>
}
