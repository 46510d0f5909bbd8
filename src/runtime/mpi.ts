/**
 * Every symbol of MPI that Ropeway calls, typed, and nothing else: Open MPI's C interface through koffi.
 *
 * Calls run one after another on threads of koffi, so that the event loop goes on while a rank waits for another.
 */
import koffi from 'koffi'
import { assert } from '../base/assert.ts'
import { messageOf, UserError } from '../base/errors.ts'

/** One of the processes that mpirun or Slurm started together. */
export interface Mpi {
  readonly rank: number
  readonly size: number
  send(bytes: Uint8Array, to: number): Promise<void>
  /** Fills `into`; the sender's message must have its length. */
  receive(into: Uint8Array, from: number): Promise<void>
  /** Every rank has root's bytes then. */
  broadcast(bytes: Uint8Array, root: number): Promise<void>
  /** Takes leave of the others and ends the process: Open MPI does not survive an ordinary exit of Node. */
  end(code: number): never
  /** Ends every process of the job. */
  abort(code: number): never
}

/** Open MPI 4 and 5. */
const libraries = ['libmpi.so.40', 'libmpi.so']
/** MPI_THREAD_SERIALIZED: any thread, one at a time. */
const serialized = 2
const messageTag = 7
/** Bytes of one call: counts are 32-bit integers. */
const callBytesMax = 1 << 30

/** True when mpirun, or Slurm with PMIx, started this process as one of several. */
export function startedByMpi(environment: Readonly<Record<string, string | undefined>>): boolean {
  const { OMPI_COMM_WORLD_SIZE, PMIX_RANK, SLURM_STEP_NUM_TASKS } = environment
  // srun --mpi=pmix says how many they are in its own way; a batch script alone has no rank.
  const size = OMPI_COMM_WORLD_SIZE ?? (PMIX_RANK === undefined ? 1 : SLURM_STEP_NUM_TASKS)
  return Number(size ?? 1) > 1
}

/** Joins the others. Throws a UserError without Open MPI. */
export function joinMpi(): Mpi {
  const library = loadLibrary()
  const c = koffi.load(null)
  const initThread = library.func(
    'int MPI_Init_thread(void* argc, void* argv, int required, _Out_ int* provided)',
  )
  const commRank = library.func('int MPI_Comm_rank(void* comm, _Out_ int* rank)')
  const commSize = library.func('int MPI_Comm_size(void* comm, _Out_ int* size)')
  const send = library.func('int MPI_Send(void* data, int count, void* type, int to, int tag, void* comm)')
  const receive = library.func(
    'int MPI_Recv(void* data, int count, void* type, int from, int tag, void* comm, void* status)',
  )
  const broadcast = library.func('int MPI_Bcast(void* data, int count, void* type, int root, void* comm)')
  const finalize = library.func('int MPI_Finalize()')
  const abort = library.func('int MPI_Abort(void* comm, int code)')
  const exit = c.func('void _exit(int code)')
  const world = library.symbol('ompi_mpi_comm_world', 'void') as unknown as bigint
  const byte = library.symbol('ompi_mpi_byte', 'void') as unknown as bigint

  const provided = [0]
  assert(initThread(null, null, serialized, provided) === 0, 'MPI starts')
  assert(provided[0]! >= serialized, 'MPI takes calls from any thread')
  const number = (ask: (comm: bigint, out: number[]) => number) => {
    const out = [0]
    assert(ask(world, out) === 0, 'MPI knows its world')
    return out[0]!
  }
  const call = async (bytes: Uint8Array, run: (part: Uint8Array) => Promise<number>) => {
    for (let offset = 0; offset < bytes.length; offset += callBytesMax)
      assert((await run(bytes.subarray(offset, offset + callBytesMax))) === 0, 'an MPI call succeeds')
  }
  return {
    rank: number(commRank as (comm: bigint, out: number[]) => number),
    size: number(commSize as (comm: bigint, out: number[]) => number),
    send: (bytes, to) => call(bytes, (part) => later(send, part, part.length, byte, to, messageTag, world)),
    receive: (into, from) =>
      call(into, (part) => later(receive, part, part.length, byte, from, messageTag, world, null)),
    broadcast: (bytes, root) => call(bytes, (part) => later(broadcast, part, part.length, byte, root, world)),
    end: (code) => {
      finalize()
      exit(code)
      throw new Error('the process has ended')
    },
    abort: (code) => {
      abort(world, code)
      throw new Error('the process has ended')
    },
  }
}

type NativeFunction = ReturnType<ReturnType<typeof koffi.load>['func']>

function later(run: NativeFunction, ...args: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    run.async(...args, (error: unknown, result: number) => (error ? reject(error) : resolve(result)))
  })
}

function loadLibrary(): ReturnType<typeof koffi.load> {
  const reasons: string[] = []
  for (const name of libraries) {
    try {
      // Open MPI's own plug-ins look for its symbols.
      return koffi.load(name, { global: true })
    } catch (error) {
      reasons.push(messageOf(error))
    }
  }
  throw new UserError(`Open MPI could not be loaded: ${reasons[0]}`, {
    fix: 'Install it (Debian: apt-get install openmpi-bin), or start one process only.',
  })
}
