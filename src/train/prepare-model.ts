/** The parameters that a job trains: fresh ones, a model's own, or an adapter beside a frozen model. */
import { createHash } from 'node:crypto'
import { readdirSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { hashOfFile, hashOfLargeFile } from '../base/files.ts'
import { atOnce, type Pause, type Steps } from '../base/pauses.ts'
import { adaptableProducts, isAdapterFolder } from '../models/adapter.ts'
import type { AdapterSettings } from '../models/adapter-config.ts'
import { openModel } from '../models/open.ts'
import type { Definition } from '../models/registry.ts'
import { loadingWeights } from '../models/weights.ts'
import type { Device } from '../runtime/device.ts'
import type { TrainingJob } from './job.ts'
import { AdapterPart, freshAdapter } from './methods/lora.ts'
import type { LoraOptions } from './methods/method.ts'
import { modelConfig, type SpecialTokens } from './model-config.ts'
import { createModel, loadingModel, Parameters, wholeModel } from './parameters.ts'
import { balanceOf } from './router-balance.ts'

/** In steps of some milliseconds, for a model that {@link refuseUnfit} let pass. */
export function* preparingModel(job: TrainingJob, tokens: SpecialTokens, device: Device): Steps<Parameters> {
  if (!('from' in job.model))
    return createModel(modelConfig(job.model, job.context, tokens), job.seed, device)
  const { from } = job.model
  const lora = job.method?.lora
  return yield* lora === undefined
    ? loadingModel(from, device, job.context)
    : adapting(from, lora, job.seed, device, job.context)
}

/** Throws UserErrors for a model that does not fit the job: before anything long is done with it. */
export function refuseUnfit(job: TrainingJob, tokens: Pick<SpecialTokens, 'vocabularySize'>): void {
  if (!('from' in job.model)) return
  const { from } = job.model
  if (isAdapterFolder(from)) {
    throw new UserError(`${from} holds an adapter, not a whole model.`, {
      failure: 'usage',
      fix: `Merge it first: ropeway export ${from} --as merged --to FOLDER`,
    })
  }
  using model = openModel(from)
  const { config } = model.definition
  const refuse = (why: string, fix: string) =>
    new UserError(`The model in ${from} ${why}.`, { failure: 'usage', fix })
  if (job.context > config.contextMax)
    throw refuse(
      `takes ${config.contextMax} tokens, fewer than context ${job.context}`,
      `Set context: ${config.contextMax} or less.`,
    )
  if (tokens.vocabularySize > config.vocabularySize)
    throw refuse(
      `has ${config.vocabularySize} tokens, fewer than the tokenizer's ${tokens.vocabularySize}`,
      "Leave the field tokenizer out: the model's own is taken.",
    )
  if (job.router_balance !== undefined && config.mixture === undefined)
    throw refuse(
      'has no experts, and router_balance is about how evenly those are used',
      'Leave router_balance out.',
    )
  if (job.method?.lora !== undefined) adapterSettings(job.method.lora, model.definition, from)
}

/** The model at `path`, frozen, with a new adapter to train. */
export function adaptedModel(path: string, options: LoraOptions, seed: number, device: Device): Parameters {
  return atOnce(adapting(path, options, seed, device))
}

function* adapting(
  path: string,
  options: LoraOptions,
  seed: number,
  device: Device,
  context?: number,
): Steps<Parameters> {
  using model = openModel(path, context)
  const { definition } = model
  const settings = adapterSettings(options, definition, path)
  const quantize = options.quantize.toUpperCase() as DType
  const frozen = yield* loadingWeights(model, device, { quantize, asEncoded: true })
  const access = {
    weight: (name: string) => frozen.get(name),
    has: (name: string) => frozen.has(name),
  }
  const adapter = freshAdapter(definition, access, settings, seed)
  return new Parameters(definition, frozen, device, new AdapterPart(adapter, definition, access, device))
}

/** The model at `path` to read with, nothing of it trained. */
export function* frozenModel(
  path: string,
  quantize: LoraOptions['quantize'],
  device: Device,
  context: number,
): Steps<Parameters> {
  using model = openModel(path, context)
  const weights = yield* loadingWeights(model, device, {
    quantize: quantize.toUpperCase() as DType,
    asEncoded: true,
  })
  return new Parameters(model.definition, weights, device, {
    ...wholeModel(model.definition, weights),
    specs: [],
  })
}

export function adapterSettings(options: LoraOptions, definition: Definition, base: string): AdapterSettings {
  const { rank, alpha, targets, dora, rank_stabilised: rankStabilised } = options
  const products = [...adaptableProducts(definition).keys()]
  const endings = [...new Set(products.map((name) => name.slice(name.lastIndexOf('.') + 1)))]
  for (const target of targets === 'all' ? [] : targets) {
    if (products.some((name) => name === target || name.endsWith(`.${target}`))) continue
    const isOfExperts = definition.architecture
      .parameters(definition.config)
      .some(
        ({ name, experts, role }) =>
          (experts !== undefined || role === 'router') && name.endsWith(`.${target}.weight`),
      )
    const why = isOfExperts
      ? 'a product of experts: adapters of those are not built'
      : 'which this model does not have'
    throw new UserError(`The field method.lora.targets names ${target}, ${why}.`, {
      failure: 'usage',
      fix: `${isOfExperts ? 'What can be adapted' : 'It has'}: ${endings.join(', ')}.`,
    })
  }
  return {
    rank,
    alpha,
    dropout: 0,
    targets: targets === 'all' ? endings : targets,
    rankStabilised,
    dora,
    alphaPattern: {},
    base,
  }
}

/** Path and content of the model that an adapter belongs to. */
export interface BaseModel {
  path: string
  /** Over configuration and weights. */
  sha256: string
}

export function baseModelOf(path: string): BaseModel {
  const files = contentFiles(path)
  return sealed(path, files, files.map(hashOfFile))
}

/** The same beside others, ended by `pause`. */
export async function awaitedBaseModel(path: string, pause: Pause): Promise<BaseModel> {
  const files = contentFiles(path)
  const hashes: string[] = []
  for (const file of files) hashes.push(await hashOfLargeFile(file, pause))
  return sealed(path, files, hashes)
}

function contentFiles(path: string): string[] {
  return statSync(path).isDirectory()
    ? readdirSync(path)
        .filter((name) => name === 'config.json' || name.endsWith('.safetensors'))
        .sort()
        .map((name) => join(path, name))
    : [path]
}

function sealed(path: string, files: readonly string[], hashes: readonly string[]): BaseModel {
  const hash = createHash('sha256')
  for (const [i, file] of files.entries()) hash.update(`${basename(file)} ${hashes[i]}\n`)
  return { path, sha256: hash.digest('hex') }
}

/** How much the even use of experts weighs: nothing beside adapters, which leave routers as they are, unless the job says otherwise. */
export function routerBalanceOf({ router_balance, method }: TrainingJob, { config }: Definition): number {
  return router_balance ?? (method?.lora === undefined ? balanceOf(config) : 0)
}
