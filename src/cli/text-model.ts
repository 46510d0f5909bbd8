/** The text side of a model on disk: tokenizer, chat template, and what its generation_config leaves as defaults. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { UserError } from '../base/errors.ts'
import { readJsonFile } from '../base/files.ts'
import { openGguf } from '../formats/gguf.ts'
import { isAdapterFolder } from '../models/adapter.ts'
import type { GenerationDefaults } from '../openai/engine-request.ts'
import type { Pooling } from '../serve/request.ts'
import {
  type ChatTemplate,
  chatTemplateFromFolder,
  chatTemplateFromGguf,
} from '../tokenizer/chat-template.ts'
import { loadTokenizer, type Tokenizer, tokenizerFromGguf } from '../tokenizer/tokenizer.ts'
import { checkpointNames, stepFolderName } from '../train/checkpoint.ts'
import { modelsFolder } from './home.ts'

export interface TextModel {
  path: string
  tokenizer: Tokenizer
  template: ChatTemplate | undefined
  defaults: GenerationDefaults
  /** What the model's files say about its embeddings; undefined when nothing. */
  pooling: Pooling | undefined
}

/**
 * Finds a model: a path as it is, else a name in the models folder. A run folder of `ropeway train` stands
 * for its newest checkpoint, and with @best behind it for the one with the best evaluation.
 */
export function resolveModel(given: string): string {
  const found = findModel(given)
  if (found !== undefined) return found
  const known = existsSync(modelsFolder()) ? readdirSync(modelsFolder()) : []
  throw new UserError(`There is no model '${given}'.`, {
    failure: 'not_found',
    fix:
      known.length > 0
        ? `Give a folder, a .gguf file, or one of: ${known.join(', ')}.`
        : 'Give a Hugging Face folder or a .gguf file; `npm start` trains a starter model.',
  })
}

/** Every run writes its job there before its first step. */
function isUnsavedRun(folder: string): boolean {
  return existsSync(join(folder, 'job.json')) && !existsSync(join(folder, 'config.json'))
}

const bestSuffix = '@best'

/** Of a run folder. Throws a UserError where nothing was evaluated, or the best checkpoint is gone. */
function bestCheckpoint(run: string): string {
  const newest = existsSync(run) ? newestCheckpoint(run) : undefined
  const manifest = newest && join(newest, 'trainer.json')
  const best =
    manifest && existsSync(manifest)
      ? (readJsonFile(manifest).best as { step: number; loss: number | null } | undefined)
      : undefined
  // Earlier versions took a loss that is no number, which JSON writes as null.
  const folder =
    best && (best.loss === null ? undefined : join(run, 'checkpoints', stepFolderName(best.step)))
  if (folder !== undefined && existsSync(folder)) return folder
  throw new UserError(`${run} has no best checkpoint.`, {
    failure: 'not_found',
    fix: 'A run has one once it was evaluated on held-out data; without @best its newest checkpoint is taken.',
  })
}

function unsaved(run: string): UserError {
  return new UserError(`${run} is the folder of a run that has not saved a checkpoint yet.`, {
    failure: 'not_found',
    fix: 'Let it train on (the same command goes on), or ask it for one while it runs: make a file emergency-save there.',
  })
}

/** The same, or undefined. */
export function findModel(given: string): string | undefined {
  if (given.endsWith(bestSuffix)) return bestCheckpoint(resolve(given.slice(0, -bestSuffix.length)))
  for (const candidate of [resolve(given), join(modelsFolder(), given)]) {
    if (!existsSync(candidate) || (given.includes('..') && candidate !== resolve(given))) continue
    const found = newestCheckpoint(candidate) ?? candidate
    if (isUnsavedRun(found)) throw unsaved(given)
    return found
  }
  return undefined
}

/** One by its name in the models folder and not by a path, NAME@best included; undefined where there is none. */
export function namedModel(name: string): string | undefined {
  if (/[\\/]/.test(name)) return undefined
  const place = join(modelsFolder(), name)
  return existsSync(place.replace(/@best$/, '')) ? findModel(place) : undefined
}

function newestCheckpoint(path: string): string | undefined {
  const checkpoints = join(path, 'checkpoints')
  if (!statSync(path).isDirectory() || existsSync(join(path, 'config.json')) || !existsSync(checkpoints))
    return undefined
  const newest = checkpointNames(checkpoints).at(-1)
  return newest === undefined ? undefined : join(checkpoints, newest)
}

export function loadTextModel(path: string): TextModel {
  return path.endsWith('.gguf') ? fromGguf(path) : fromFolder(path)
}

function fromFolder(path: string): TextModel {
  if (!statSync(path).isDirectory())
    throw new UserError(`${path} is no model.`, {
      failure: 'usage',
      fix: 'A model is a folder as Hugging Face has them, the folder of a run, or a file that ends in .gguf.',
    })
  if (isAdapterFolder(path) && !existsSync(join(path, 'config.json')))
    throw new UserError(`${path} holds an adapter, not a whole model.`, {
      failure: 'usage',
      fix: `Serve it beside its base (ropeway serve BASE --adapter NAME=${path}), or merge it first: ropeway export ${path} --as merged --to FOLDER`,
    })
  const file = join(path, 'generation_config.json')
  return {
    path,
    tokenizer: loadTokenizer(path),
    template: chatTemplateFromFolder(path),
    defaults: existsSync(file) ? defaultsOf(readJsonFile(file)) : {},
    pooling: poolingOfFolder(path),
  }
}

/** Sentence Transformers keep it beside the model. */
function poolingOfFolder(path: string): Pooling | undefined {
  const file = join(path, '1_Pooling', 'config.json')
  if (!existsSync(file)) return undefined
  const { pooling_mode_mean_tokens: mean, pooling_mode_lasttoken: last } = readJsonFile(file)
  return mean === true ? 'mean' : last === true ? 'last' : undefined
}

/** As llama.cpp numbers them; the others belong to models that are not served here. */
const ggufPoolings: Readonly<Record<number, Pooling>> = { 1: 'mean', 3: 'last' }

function fromGguf(path: string): TextModel {
  using source = openGguf(path)
  const architecture = source.metadata.get('general.architecture')
  return {
    path,
    tokenizer: tokenizerFromGguf(source.metadata),
    template: chatTemplateFromGguf(source.metadata),
    defaults: {},
    pooling: ggufPoolings[Number(source.metadata.get(`${architecture}.pooling_type`))],
  }
}

function defaultsOf(config: Record<string, unknown>): GenerationDefaults {
  // Without do_sample the other fields are transformers' own defaults, which nobody chose for this model.
  if (config.do_sample !== true) return {}
  const number = (field: string) =>
    typeof config[field] === 'number' ? (config[field] as number) : undefined
  const given = {
    temperature: number('temperature'),
    topP: number('top_p'),
    topK: number('top_k'),
    minP: number('min_p'),
    repetitionPenalty: number('repetition_penalty'),
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}
