/** What a run tells while it runs, and how it ended. */
import type { BatchSource } from './batch.ts'
import type { SaveStage } from './checkpoint-save.ts'
import type { SavedCheckpoint } from './checkpoint-writer.ts'
import type { Decode } from './evaluate/decode.ts'
import type { Evaluation } from './evaluate/evaluations.ts'
import type { DataSummary } from './job-data.ts'
import type { DataCheck } from './preflight/data-check.ts'
import type { Needs } from './preflight/needs.ts'
import type { Publication } from './publish/publisher.ts'
import type { StepFault, StepReport } from './trainer.ts'

export interface JobStart extends DataSummary {
  /** Numbers that are trained. */
  parameters: number
  /** Numbers of the model that stay as they are. */
  frozenParameters: number
  vocabularySize: number
  tokensPerStep: number
  /** Steps that an earlier run did. */
  stepsDone: number
  steps: number
  device: string
  threads: number
}

export interface JobCallbacks {
  /** What the data is, before anything is computed. */
  onData?: (check: DataCheck) => void
  /** What it will take, about. */
  onNeeds?: (needs: Needs) => void
  onStart?: (start: JobStart) => void
  onStep?: (report: StepReport) => void
  /** A step came out wrong; what was done about it. */
  onFault?: (fault: StepFault) => void
  onEvaluation?: (evaluation: Evaluation & { isBest: boolean }) => void
  /** The serving engine's decoder, for tasks, samples and answers to learn from; training has none of its own. */
  decode?: Decode
  /** The newest step becomes a checkpoint. */
  onSaving?: (stepsDone: number) => void
  /** A checkpoint is on disk; steps may have been done since it was asked for. */
  onCheckpoint?: (checkpoint: SavedCheckpoint) => void
  /** The running engine has the adapter. */
  onPublished?: (publication: Publication) => void
  /** Something a person should know: what is being prepared, what was damaged. */
  onNote?: (text: string) => void
  onSaveStage?: (stage: SaveStage) => void
  /** Stands between the data and the trainer, so that a test can plant a fault there. */
  plant?: (source: BatchSource) => BatchSource
}

export interface JobResult {
  outcome: 'finished' | 'stopped'
  /** Those that are kept: where a run was stopped after one that could not be used, those of the newest checkpoint. */
  stepsDone: number
  /** The newest checkpoint, which can be served. */
  folder: string
  /** Of the last evaluation in this run. */
  validationLoss: number | undefined
  /** The checkpoint with the best evaluation, where there was one. */
  best: { stepsDone: number; folder: string } | undefined
  /** True when the run ended because it did not get better any more. */
  stoppedEarly: boolean
}
