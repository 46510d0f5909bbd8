/**
 * One process of the tiny job on a cache that may be empty: `cold-corpus-child.ts FOLDER CHANGES GATE`, alone or as a rank.
 * Lines on stdout are its pid and a note. Who makes something waits with it half made until the file GATE is there.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { joinMpi, startedByMpi } from '../../src/runtime/mpi.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { tinyJob } from './tiny-job.ts'

const [folder, changes, gate] = process.argv.slice(2) as [string, string, string]
const mpi = startedByMpi(process.env) ? joinMpi() : undefined
const job = { ...tinyJob(folder, JSON.parse(changes)), cacheFolder: join(folder, 'cache') }

/** The event loop stands still meanwhile, as it may in any long piece of work. */
function waitForGate(): void {
  const sleep = new Int32Array(new SharedArrayBuffer(4))
  // A test that failed removes the folder.
  while (!existsSync(gate) && existsSync(folder)) Atomics.wait(sleep, 0, 0, 20)
}

function onNote(text: string): void {
  console.log(`${process.pid} ${text}`)
  if (/^(Collecting|Making|Learning)/.test(text)) waitForGate()
}

try {
  await runTrainingJob(job, { onNote }, undefined, mpi)
} catch (error) {
  console.error(error)
  mpi?.abort(1)
  process.exit(1)
}
mpi?.end(0)
process.exit(0)
