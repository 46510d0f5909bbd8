/** One rank of the tiny job: `mpi-child.ts FOLDER CHANGES [RANK STEP]`, where RANK kills itself after STEP. */
import { joinMpi } from '../../src/runtime/mpi.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { tinyJob } from './tiny-job.ts'

const [folder, changes, rank, step] = process.argv.slice(2) as [string, string, string?, string?]
const mpi = joinMpi()

function onStep(report: { step: number }): void {
  if (Number(rank ?? -1) === mpi.rank && report.step === Number(step)) process.kill(process.pid, 'SIGKILL')
}

try {
  await runTrainingJob(tinyJob(folder, JSON.parse(changes)), { onStep }, undefined, mpi)
} catch (error) {
  console.error(error)
  mpi.abort(1)
}
mpi.end(0)
