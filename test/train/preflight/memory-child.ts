/** Runs the job of argv[2] (JSON) in argv[3], and prints what was estimated and what was used: a process has one peak. */
import { parseTrainingJob } from '../../../src/train/job.ts'
import type { Needs } from '../../../src/train/preflight/needs.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'

let needs: Needs | undefined
const job = parseTrainingJob(JSON.parse(process.argv[2]!), process.argv[3]!)
const result = await runTrainingJob(job, { onNeeds: (found) => (needs = found) })
const peakBytes = process.resourceUsage().maxRSS * 1024
process.stdout.write(
  `${JSON.stringify({ memory: needs!.memory, disk: needs!.disk, peakBytes, folder: result.folder })}\n`,
)
