/** Runs the job of argv[2] (JSON) in argv[3], and prints what was estimated and what was used: a process has one peak. */

import { peakBytes } from '../../../bench/harness/peak.ts'
import { joinMpi, startedByMpi } from '../../../src/runtime/mpi.ts'
import { parseTrainingJob } from '../../../src/train/job.ts'
import type { Needs } from '../../../src/train/preflight/needs.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'

let needs: Needs | undefined
const job = parseTrainingJob(JSON.parse(process.argv[2]!), process.argv[3]!)
const mpi = startedByMpi(process.env) ? joinMpi() : undefined
const result = await runTrainingJob(job, { onNeeds: (found) => (needs = found) }, undefined, mpi)
const most = peakBytes()
const { memory, disk } = needs!
const line = `${JSON.stringify({ memory, disk, peakBytes: most, folder: result.folder })}\n`
if ((mpi?.rank ?? 0) === 0) await new Promise((resolve) => process.stdout.write(line, resolve))
mpi?.end(0)
