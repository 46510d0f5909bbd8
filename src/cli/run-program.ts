/** `ropeway train FILE --here` where the file says `run:`. */
import { resolve } from 'node:path'
import { parseRunJob } from '../api/control/job-file.ts'
import { UserError } from '../base/errors.ts'
import { runHere } from './run-here.ts'
import { shutdownSignal } from './shutdown.ts'
import { note } from './terminal.ts'

interface RunProgramFlags {
  out?: string
  json?: boolean
  steps?: number
  seed?: number
  threads?: number
  device?: string
}

/** Any command: what it is told and what it reports is in docs/any-training-code.md. */
export async function runProgram(given: object, folder: string, flags: RunProgramFlags): Promise<void> {
  const foreign = (['steps', 'seed', 'threads', 'device'] as const).filter(
    (name) => flags[name] !== undefined,
  )
  if (foreign.length > 0) {
    throw new UserError(`--${foreign[0]} is for jobs of our own trainer.`, {
      failure: 'usage',
      fix: 'Give the program its settings in run: or env: of the job file.',
    })
  }
  const job = parseRunJob({ ...given, ...(flags.out !== undefined && { out: resolve(flags.out) }) })
  if (job.image !== undefined)
    throw new UserError('--here starts programs of this machine, and this job names an image.', {
      failure: 'usage',
      fix: 'Give it to the service: ropeway job run -f FILE; or leave out image.',
    })
  const stop = shutdownSignal()
  const emit = (event: Record<string, unknown>) => process.stdout.write(`${JSON.stringify(event)}\n`)
  try {
    const result = await runHere(job, folder, stop.signal, flags.json === true ? emit : undefined)
    if (flags.json === true) emit({ event: 'end', ...result })
    if (result.outcome === 'failed') throw new UserError(result.message ?? 'The program failed.')
    const after = result.stepsDone > 0 ? ` after step ${result.stepsDone}` : ''
    if (result.outcome === 'finished') note(`Finished${after}.`)
    else {
      note(`Stopped${after}; the same command goes on from the newest checkpoint in ${job.out}.`)
      process.exitCode = 130
    }
  } finally {
    stop.dispose()
  }
}
