import { writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import type { Command } from 'commander'
import { systemClock } from '../../base/clock.ts'
import { exitCodes, messageOf, UserError } from '../../base/errors.ts'
import { holdAlone } from '../../base/sole-user.ts'
import { isAdapterFolder } from '../../models/adapter.ts'
import { joinMpi, startedByMpi } from '../../runtime/mpi.ts'
import type { TrainingJob } from '../../train/job.ts'
import type { Channel } from '../../train/parallel/team.ts'
import type { JobResult } from '../../train/run-callbacks.ts'
import { emergencyNote } from '../../train/run-files.ts'
import { runTrainingJob } from '../../train/run-job.ts'
import { isServiceKnown } from '../contexts.ts'
import { reportFailure } from '../contract-reports.ts'
import { decodeWithEngine } from '../decoder.ts'
import { readJobFile, trainingJobOf } from '../job-file.ts'
import { type NounFlags, sessionOf } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { asRanks, listenForStop, threadsOfRank } from '../ranks.ts'
import { runProgram } from '../run-program.ts'
import { shutdownSignal } from '../shutdown.ts'
import { note, red } from '../terminal.ts'
import { runShown } from '../training.ts'
import { runJobFile } from './job.ts'

interface TrainFlags extends NounFlags {
  here?: boolean
  out?: string
  steps?: number
  seed?: number
  threads?: number
  device?: string
  detach?: boolean
}

export function trainCommand(program: Command): void {
  program
    .command('train')
    .description('train a model as a job file says: as a job of the service, or in this process')
    .argument('<file>', 'job file (YAML); see examples/')
    .option('--here', 'run in this process, on this machine')
    .option('--out <folder>', "with --here: where checkpoints go (default: the job's own)")
    .option('--steps <n>', 'train for so many steps instead', wholeNumber(1))
    .option('--seed <n>', 'use this seed instead', wholeNumber(0))
    .option('--threads <n>', 'compute threads', wholeNumber(1, 256))
    .option('--device <name>', 'auto, cpu, or a GPU')
    .option('--json', 'print every event as a line of JSON')
    .option('--context <name>', 'the service to talk to (ropeway context)')
    .option('--project <name>', 'the project, if not that of the context')
    .option('-d, --detach', 'do not wait for the job of the service')
    .action(async (file: string, flags: TrainFlags) => {
      if (flags.here === true) await trainHere(file, flags)
      else await trainThere(file, flags)
    })
}

/** As a job of the service that the command line talks to. */
async function trainThere(file: string, flags: TrainFlags): Promise<void> {
  const { out, steps, seed, threads, device } = flags
  if (!isServiceKnown(flags.context)) {
    throw new UserError('No service is known here that could run the job.', {
      failure: 'usage',
      fix: `Start one (npm start, or ropeway up), log in to one (ropeway login URL), or train in this process: ropeway train ${file} --here`,
    })
  }
  if (out !== undefined) {
    throw new UserError('--out is for --here: a job of the service has a folder there.', {
      failure: 'usage',
      fix: 'ropeway job artifacts lists what is in it, and its checkpoints are kept: ropeway checkpoint.',
    })
  }
  const changes = Object.entries({ steps, seed, threads, device }).filter(([, value]) => value !== undefined)
  await runJobFile(sessionOf(flags), { ...flags, file }, Object.fromEntries(changes))
}

/** A service that started it hears why it failed. */
async function trainHere(file: string, flags: TrainFlags): Promise<void> {
  try {
    await runHere(file, flags)
  } catch (error) {
    reportFailure(process.env.ROPEWAY_EVENTS, systemClock.unixMs, error)
    throw error
  }
}

async function runHere(file: string, flags: TrainFlags): Promise<void> {
  const folder = dirname(resolve(file))
  // What the service would want to know: docs/jobs.md.
  const { job: _, ...given } = readJobFile(file)
  if ('run' in given) return await runProgram(given, folder, flags)
  const { out, steps, seed, threads, device } = flags
  const overrides = { out: out && resolve(out), steps, seed, threads, device }
  const changed = Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined))
  const job = trainingJobOf({ ...given, ...changed }, folder)
  if (startedByMpi(process.env)) return await withOthers(job, flags.json === true)
  refuseForeignRanks(process.env)
  if (job.ranks !== undefined && job.ranks > 1) {
    process.exitCode = await asRanks(job.ranks)
    return
  }
  await alone(job, flags.json === true)
}

/** torchrun's variables, a `run:` job's too: each of them would train the same model by itself, into the same folder. */
function refuseForeignRanks({ WORLD_SIZE, RANK }: NodeJS.ProcessEnv): void {
  if (!(Number(WORLD_SIZE) > 1)) return
  throw new UserError(
    `This is process ${RANK ?? '?'} of ${WORLD_SIZE}, and our trainer's processes meet by MPI.`,
    {
      failure: 'usage',
      fix: 'Start one process with ranks: N in its job file, or all of them by mpirun or srun --mpi=pmix: docs/training-runs.md.',
    },
  )
}

/** As one of several processes: the first one shows, and whoever fails ends all. */
async function withOthers(given: TrainingJob, json: boolean): Promise<void> {
  const mpi = joinMpi()
  const job = { ...given, threads: given.threads ?? threadsOfRank(process.env) }
  try {
    if (mpi.rank === 0) await alone(job, json, mpi)
    else {
      const stop = shutdownSignal()
      await runTrainingJob(job, { decode: decodeWithEngine }, stop.signal, mpi)
    }
  } catch (error) {
    reportFailure(process.env.ROPEWAY_EVENTS, systemClock.unixMs, error)
    note(`${red('error:')} process ${mpi.rank}: ${messageOf(error)}`)
    if (error instanceof UserError && error.fix !== undefined) note(error.fix)
    mpi.abort(error instanceof UserError ? exitCodes[error.failure] : exitCodes.failed)
  }
  mpi.end(typeof process.exitCode === 'number' ? process.exitCode : 0)
}

async function alone(job: TrainingJob, json: boolean, channel?: Channel): Promise<void> {
  // Two at once would write one ledger and remove each other's checkpoints.
  using _lock = holdOut(job.out)
  const stop = shutdownSignal()
  listenForStop(process.env, stop.ask)
  // On demand: a checkpoint after the step in hand, and on with it.
  const onDemand = () => writeFileSync(emergencyNote(job.out), '')
  process.on('SIGUSR2', onDemand)
  const emit = (event: Record<string, unknown>) => process.stdout.write(`${JSON.stringify(event)}\n`)
  try {
    const result = await runShown(job, stop.signal, json ? emit : undefined, channel)
    if (json) emit({ event: 'end', ...result })
    if (result.outcome === 'stopped') {
      note(
        `Stopped after step ${result.stepsDone}; the same command goes on from there. Checkpoint: ${shown(result.folder)}`,
      )
      process.exitCode = 130
      return
    }
    note(`${endText(result)}\n`)
    const model = shown(result.best?.folder ?? result.folder)
    note(
      'from' in job.model && isAdapterFolder(result.folder)
        ? adapterHints(shown(job.model.from), model)
        : `  ropeway generate ${model} -p "..."\n  ropeway serve ${model}`,
    )
  } finally {
    process.off('SIGUSR2', onDemand)
    stop.dispose()
  }
}

function holdOut(out: string): Disposable {
  try {
    return holdAlone(join(out, '.lock.db'), 'Wait for it or stop it, or choose another out folder.')
  } catch (error) {
    if (!['EEXIST', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    throw new UserError(`The field out names ${out}, and a file is where that folder would be.`, {
      failure: 'usage',
      fix: 'Choose another folder, or move the file away.',
    })
  }
}

/** As it is typed from here; whole where it lies elsewhere, as that of a job of the service, whose log others read. */
function shown(path: string): string {
  const way = relative('.', path)
  return way.startsWith('..') ? path : way
}

/** How a run ended that is not to go on. */
export function endText({ stepsDone, stoppedEarly, validationLoss, best }: JobResult): string {
  const held = validationLoss === undefined ? '' : `, held-out loss ${validationLoss.toFixed(4)}`
  const end = `${stoppedEarly ? 'Stopped early' : 'Finished'} after step ${stepsDone}${held}.`
  if (best === undefined || best.stepsDone === stepsDone) return end
  return `${end} Best at step ${best.stepsDone}: ${shown(best.folder)}`
}

function adapterHints(base: string, adapter: string): string {
  return `  ropeway serve ${base} --adapter NAME=${adapter}\n  ropeway export ${adapter} --as merged --to FOLDER`
}
