/** Recomputes a step that a run did, from the nearest checkpoint before it, and holds it to the step ledger. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { readJsonFile } from '../base/files.ts'
import { newestCheckpoint } from './checkpoint.ts'
import type { TrainingJob } from './job.ts'
import { type LedgerEntry, ledgerFile, readLedger } from './ledger.ts'
import type { JobCallbacks } from './run-callbacks.ts'
import { jobRecord } from './run-files.ts'
import { replaySteps } from './run-job.ts'
import type { StepSamples } from './step-samples.ts'

export interface StepReplay {
  step: number
  recorded: LedgerEntry
  recomputed: LedgerEntry
  /** The first step whose hash differs from the recorded one, among all that were computed. */
  firstDifference: number | undefined
  /** Steps done at the checkpoint that this went out from; 0 is the beginning. */
  from: number
  samples: StepSamples
}

/** `out` is the job's folder. Throws UserErrors for a step that was not done. */
export async function replayStep(
  out: string,
  step: number,
  callbacks: Pick<JobCallbacks, 'onNote' | 'plant' | 'decode'> & { onProgress?: (step: number) => void } = {},
): Promise<StepReplay> {
  const { onProgress, ...others } = callbacks
  const ledger = readLedger(out)
  const recorded = ledger.get(step)
  if (recorded === undefined) throw unknownStep(out, step, ledger)
  const job = readJsonFile(jobRecord(out)) as unknown as TrainingJob
  const found = newestCheckpoint(
    join(out, 'checkpoints'),
    (folder, reason) => callbacks.onNote?.(`The checkpoint ${folder} is damaged (${reason}).`),
    step + 1,
  )
  let recomputed: LedgerEntry | undefined
  let firstDifference: number | undefined
  const samples = await replaySteps({ ...job, out }, found, step, {
    ...others,
    onStep: (entry) => {
      recomputed = entry
      const known = ledger.get(entry.step)
      if (known !== undefined && known.hash !== entry.hash) firstDifference ??= entry.step
      onProgress?.(entry.step)
    },
  })
  return {
    step,
    recorded,
    recomputed: recomputed!,
    firstDifference,
    from: found?.state.stepsDone ?? 0,
    samples,
  }
}

function unknownStep(out: string, step: number, ledger: ReadonlyMap<number, LedgerEntry>): UserError {
  if (!existsSync(ledgerFile(out)))
    return new UserError(`${out} holds no step ledger.`, {
      failure: 'not_found',
      fix: "Give the job's folder: the field `out` of its file, which holds ledger.jsonl.",
    })
  const last = Math.max(-1, ...ledger.keys())
  return new UserError(`Step ${step} is not in the ledger of ${out}, which ends with step ${last}.`, {
    failure: 'not_found',
    fix: 'Steps count from 0.',
  })
}
