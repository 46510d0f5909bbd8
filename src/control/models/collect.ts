import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { UserError } from '../../base/errors.ts'
import type { Blobs } from '../blobs/blobs.ts'
import { bringFile } from '../blobs/bring.ts'
import { checkpointFolder, listCheckpoints, readManifest } from '../jobs/output-checkpoints.ts'
import type { Checkpoints } from './checkpoints.ts'
import { fillFolder } from './provide.ts'
import type { CheckpointRow } from './rows.ts'

/** An older checkpoint below one that is known was known too. Less than the day that deleted rows stay. */
const forgottenMs = 20 * 3_600_000

export interface JobOutput {
  readonly project: string
  readonly job: { readonly id: string; readonly name: string }
  /** The folder that the job writes to. */
  readonly output: string
  readonly metrics: Readonly<Record<string, number>>
  readonly processes: number
}

/**
 * Brings the checkpoints that a job has left in its output, but for those that are known; returns the new ones.
 * One that is damaged, or that the job removes meanwhile, is left out and said to `onSkipped`.
 */
export async function collectCheckpoints(
  blobs: Blobs,
  checkpoints: Checkpoints,
  { project, job, output, metrics, processes }: JobOutput,
  onSkipped: (folder: string, reason: string) => void,
): Promise<CheckpointRow[]> {
  const made: CheckpointRow[] = []
  const found = listCheckpoints(output)
  const known = await checkpoints.stepsOf(job.id)
  const newest = Math.max(-1, ...known)
  for (const { step, folder } of found) {
    if (known.has(step)) continue
    try {
      // Rows of what was deleted go after a day; the job's folder may keep it for longer.
      const age = checkpoints.store.clock.unixMs() - statSync(folder).mtimeMs
      if (step < newest && age > forgottenMs) continue
      const manifest = readManifest(folder)
      if (manifest === undefined) throw new UserError('it has no manifest')
      const files = [
        { path: manifest.name, blob: (await bringFile(blobs, project, join(folder, manifest.name))).id },
      ]
      for (const [path, { sha256 }] of Object.entries(manifest.files)) {
        if (path === manifest.name) continue
        files.push({ path, blob: (await bringFile(blobs, project, join(folder, path), sha256)).id })
      }
      const layout = { data: processes, tensor: 1, pipeline: 1, expert: 1 }
      // What the job measured last belongs to its newest checkpoint.
      const own = step === found.at(-1)!.step ? metrics : {}
      const row = await checkpoints.ofJob(project, { job, step, files, layout, metrics: own })
      if (row !== undefined) made.push(row)
    } catch (error) {
      if (!(error instanceof UserError) && existsSync(folder)) throw error
      onSkipped(folder, error instanceof Error ? error.message : String(error))
    }
  }
  return made
}

/**
 * Brings a job's newest collected checkpoint into its output, when that has none as new: an earlier attempt ran on
 * another machine. Done again, it changes nothing.
 */
export async function bringNewest(checkpoints: Checkpoints, job: string, output: string): Promise<void> {
  const newest = Math.max(-1, ...(await checkpoints.stepsOf(job)))
  const own = listCheckpoints(output).at(-1)?.step ?? -1
  if (newest <= own) return
  const row = await checkpoints.jobStep(job, newest)
  if (row === undefined || row.deleted_at !== null) return
  const target = checkpointFolder(output, newest)
  mkdirSync(dirname(target), { recursive: true, mode: 0o700 })
  await fillFolder(target, await checkpoints.files(row), (one) => checkpoints.placeOf(row, one))
}
