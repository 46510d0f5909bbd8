import type { FilePurpose, TuningError, TuningIntegration, TuningMethod } from '../../api/tuning.ts'
import { type NounRow, Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'

/** A file of OpenAI's API: the only file of a dataset that has its id as name. */
export interface TuningFileRow extends NounRow {
  readonly spec: { readonly dataset: string }
  readonly status: Record<string, never>
  readonly filename: string
  readonly purpose: FilePurpose
  readonly bytes: number
}

/** What a fine-tuning job was asked for; its name is that of the model that it makes. */
export interface TuningSpec {
  /** As it was asked for. */
  readonly model: string
  readonly base: {
    /** The checkpoint that training starts from. */
    readonly checkpoint: string
    /** The model that it is a version of. */
    readonly model: string
  }
  readonly organisation: string
  readonly trainingFile: string
  readonly validationFile: string | null
  readonly suffix: string | null
  readonly seed: number
  readonly method: TuningMethod
  readonly integrations: readonly TuningIntegration[]
  readonly metadata: Readonly<Record<string, string>> | null
}

/** `validating`: its files are read. `active`: a job of the same id does it. `done`: nothing will change any more. */
export type TuningState = 'validating' | 'active' | 'done'

export interface TuningStatus {
  /** What somebody asked for and the job may not have come to yet. */
  readonly wish?: 'paused' | 'cancelled' | 'resumed'
  readonly error?: TuningError
  /** What `auto` came to. */
  readonly plan?: {
    readonly examples: number
    readonly epochs: number
    readonly batch: number
    readonly rateMultiplier: number
    readonly beta?: number | undefined
    readonly trainedTokens: number
    readonly steps: number
  }
  /** How far events were told: the job's last event, its last metric and checkpoint. */
  readonly told?: {
    readonly event?: string | undefined
    readonly step: number
    readonly checkpoint: number
  }
  readonly resultFiles: readonly string[]
  readonly outcome?: 'succeeded' | 'failed' | 'cancelled'
  readonly finishedMs?: number
}

export interface TuningRow extends NounRow {
  readonly spec: TuningSpec
  readonly status: TuningStatus
  readonly state: TuningState
}

export function tuningNouns(store: Store): Nouns<TuningRow> {
  return new Nouns<TuningRow>(store, 'tunings', 'ftjob')
}

export function tuningFileNouns(store: Store): Nouns<TuningFileRow> {
  return new Nouns<TuningFileRow>(store, 'tuning_files', 'file')
}

/** Ids as OpenAI's clients see them have a dash where ours have an underscore. */
export function shownId(id: string): string {
  return id.replace('_', '-')
}

export function ownId(shown: string): string {
  return shown.replace('-', '_')
}

/** The job that does it has the same id but for its beginning: asked for twice, it is one. */
export function jobIdOf(tuning: string): string {
  return tuning.replace(/^ftjob_/, 'job_')
}

/** `ft:BASE:ORGANISATION:SUFFIX:ID:ckpt-step-12`. */
export function checkpointName(model: string, step: number): string {
  return `${model}:ckpt-step-${step}`
}

/** The two parts of such a name; undefined for what is none. */
export function modelNameParts(name: string): { model: string; step: number | undefined } | undefined {
  if (!name.startsWith('ft:') || name.length > nameCharactersMax) return undefined
  const [, model, step] = /^(ft:.{1,400}?)(?::ckpt-step-(\d{1,12}))?$/s.exec(name) ?? []
  return model === undefined ? undefined : { model, step: step === undefined ? undefined : Number(step) }
}

const nameCharactersMax = 500
