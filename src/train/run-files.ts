/** Files in a job's folder beside its checkpoints. */
import { join } from 'node:path'

/** While this file is in the job's folder, the job is asked to save after the step in hand; it removes the file then. */
export function emergencyNote(out: string): string {
  return join(out, 'emergency-save')
}

/** The job as it was last run, with every path absolute. */
export function jobRecord(out: string): string {
  return join(out, 'job.json')
}
