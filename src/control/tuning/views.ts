import {
  hyperparametersAsked,
  type TuningStatus as ShownStatus,
  type TuningCheckpointObject,
  type TuningEventObject,
  type TuningObject,
} from '../../api/tuning.ts'
import type { JobRow } from '../jobs/rows.ts'
import type { CheckpointRow } from '../models/rows.ts'
import type { EventRow } from '../store/events.ts'
import { checkpointName, shownId, type TuningRow } from './rows.ts'
import type { TuningSeen } from './tunings.ts'

export function viewOfTuning({ row, job }: TuningSeen): TuningObject {
  const { spec, status } = row
  const hyperparameters = hyperparametersOf(row)
  const { method } = spec
  const grader = method.type === 'reinforcement' ? { grader: method.reinforcement.grader } : {}
  return {
    id: shownId(row.id),
    object: 'fine_tuning.job',
    created_at: seconds(row.created_at),
    error: status.error ?? null,
    estimated_finish: finishOf(row, job),
    fine_tuned_model: status.outcome === 'succeeded' ? row.name : null,
    finished_at: status.finishedMs === undefined ? null : seconds(status.finishedMs),
    hyperparameters,
    integrations: [...spec.integrations],
    method: {
      type: method.type,
      [method.type]: { ...grader, hyperparameters },
      adaptation: method.adaptation,
    },
    metadata: spec.metadata === null ? null : { ...spec.metadata },
    model: spec.model,
    organization_id: spec.organisation,
    result_files: [...status.resultFiles],
    seed: spec.seed,
    status: statusOf(row, job),
    trained_tokens: status.outcome === 'succeeded' ? (status.plan?.trainedTokens ?? null) : null,
    training_file: spec.trainingFile,
    user_provided_suffix: spec.suffix,
    validation_file: spec.validationFile,
  }
}

/** What `auto` came to, as soon as the files are read. */
function hyperparametersOf({ spec: { method }, status: { plan } }: TuningRow): Record<string, unknown> {
  const asked = hyperparametersAsked(method)
  if (plan === undefined) return { ...asked }
  return {
    ...asked,
    n_epochs: plan.epochs,
    batch_size: plan.batch,
    learning_rate_multiplier: plan.rateMultiplier,
    ...(plan.beta !== undefined && { beta: plan.beta }),
  }
}

export function statusOf({ state, status }: TuningRow, job: JobRow | undefined): ShownStatus {
  if (state === 'done') return status.outcome ?? 'failed'
  if (status.wish === 'cancelled') return 'cancelled'
  if (state === 'validating' || job === undefined) return 'validating_files'
  if (status.wish === 'paused') return 'paused'
  switch (job.state) {
    case 'waiting':
      return 'queued'
    case 'stopped':
      return status.wish === 'resumed' ? 'queued' : 'paused'
    case 'allocating':
    case 'preparing':
      return 'queued'
    // What it has written is still being carried over.
    default:
      return 'running'
  }
}

function finishOf({ state, status: { wish } }: TuningRow, job: JobRow | undefined): number | null {
  if (state !== 'active' || job?.state !== 'running' || wish === 'paused') return null
  const { totalSteps, stepsDone, stepMs, lastReportMs } = job.status
  if (totalSteps === undefined || stepMs === undefined || lastReportMs === undefined) return null
  return Math.ceil((lastReportMs + (totalSteps - stepsDone) * stepMs) / 1000)
}

export function viewOfTuningEvent({ id, at, kind, message, details }: EventRow): TuningEventObject {
  const level = details.level === 'warn' || details.level === 'error' ? details.level : 'info'
  return {
    id: shownId(id).replace(/^event-/, 'ftevent-'),
    object: 'fine_tuning.job.event',
    created_at: seconds(at),
    level,
    message,
    type: kind === 'tuning.metrics' ? 'metrics' : 'message',
    data: (details.data as Record<string, unknown> | null | undefined) ?? null,
  }
}

export function viewOfTuningCheckpoint(
  row: TuningRow,
  checkpoint: CheckpointRow,
  metrics: Readonly<Record<string, number>>,
): TuningCheckpointObject {
  return {
    id: shownId(checkpoint.id).replace(/^checkpoint-/, 'ftckpt-'),
    object: 'fine_tuning.job.checkpoint',
    created_at: seconds(checkpoint.created_at),
    fine_tuned_model_checkpoint: checkpointName(row.name, checkpoint.step),
    fine_tuning_job_id: shownId(row.id),
    metrics: { step: checkpoint.step, ...metrics },
    step_number: checkpoint.step,
  }
}

function seconds(ms: number): number {
  return Math.floor(ms / 1000)
}
