/**
 * `ranks: N` in a job file: mpirun starts the same command N times on this machine. The processes are asked to stop by the
 * end of the first one's standard input, which also comes when this process dies: signals to mpirun would end them at once.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism, userInfo } from 'node:os'
import { UserError } from '../base/errors.ts'
import { runnerOf } from '../base/processes.ts'
import { shutdownSignal } from './shutdown.ts'
import { note } from './terminal.ts'

/** Tells a rank that its standard input says when to stop. */
const startedHere = 'ROPEWAY_RANKS_STARTED_HERE'

/** Runs this very command as `ranks` processes; resolves to the exit code. */
export async function asRanks(ranks: number): Promise<number> {
  if (spawnSync('mpirun', ['--version']).status !== 0)
    throw new UserError(`The job asks for ${ranks} processes, and mpirun does not run here.`, {
      fix: 'Install Open MPI (Debian: apt-get install openmpi-bin), or leave ranks out.',
    })
  const options = ['-q', '--oversubscribe', '--bind-to', 'none', '-n', String(ranks)]
  // Open MPI refuses root unless told; a container has often nobody else.
  if (userInfo().uid === 0) options.push('--allow-run-as-root')
  const stop = shutdownSignal()
  try {
    const command = [
      process.execPath,
      ...process.execArgv,
      ...runnerOf(process.argv[1]!),
      ...process.argv.slice(1),
    ]
    const mpirun = spawn('mpirun', [...options, ...command], {
      stdio: ['pipe', 'inherit', 'inherit'],
      env: { ...process.env, [startedHere]: '1' },
      // A terminal's Ctrl-C reaches this process only.
      detached: true,
    })
    // Open for as long as this process lives; nothing is ever written.
    mpirun.stdin!.on('error', () => undefined)
    stop.signal.addEventListener('abort', () => mpirun.stdin!.end(), { once: true })
    const [code, signal] = (await once(mpirun, 'exit')) as [number | null, NodeJS.Signals | null]
    if (code !== 0 && !stop.signal.aborted)
      note(
        `The processes ended (${signal ?? `exit code ${code}`}); the same command goes on from the newest checkpoint, at any number of ranks.`,
      )
    return code ?? 1
  } finally {
    stop.dispose()
  }
}

/** Calls `stop` when the process that started this rank asks for it, or is gone. Nothing happens for other ranks. */
export function listenForStop(environment: NodeJS.ProcessEnv, stop: () => void): void {
  if (environment[startedHere] === undefined) return
  process.stdin.once('end', stop)
  process.stdin.resume()
}

/**
 * Threads of one of the processes that share this machine: what Slurm gave each, or together as many as there are cores.
 */
export function threadsOfRank(environment: NodeJS.ProcessEnv): number {
  const { OMPI_COMM_WORLD_LOCAL_SIZE, SLURM_CPUS_PER_TASK, SLURM_STEP_TASKS_PER_NODE } = environment
  const cores = availableParallelism()
  const given = Number.parseInt(SLURM_CPUS_PER_TASK ?? '', 10)
  if (given > 0) return Math.min(given, cores)
  // Slurm writes 2(x3),1 for two tasks on three nodes each and one on another.
  const here = Number.parseInt(OMPI_COMM_WORLD_LOCAL_SIZE ?? SLURM_STEP_TASKS_PER_NODE ?? '1', 10)
  return Math.max(1, Math.floor(cores / (here > 0 ? here : 1)))
}
