/**
 * Prepares the data of the job of argv[2] (JSON) in argv[3] and looks at it, and prints the most bytes that were in use
 * at a time: what is left after a collection, at the pauses of the preparation. Resident memory would move by tens of
 * megabytes with the collector's mood.
 */
import { join } from 'node:path'
import { type Preparing, preparing } from '../../../src/train/data/preparing.ts'
import { parseTrainingJob } from '../../../src/train/job.ts'
import { prepareData } from '../../../src/train/job-data.ts'
import { dataCheckOf } from '../../../src/train/preflight/data-check.ts'

/** A collection takes some milliseconds, and pauses come by the hundred thousand. */
const everyMs = 400

let mostBytes = 0
let looks = 0
function look(): void {
  globalThis.gc!()
  globalThis.gc!() // buffers that the first found unused are freed beside it, at the latest before the second
  const { heapUsed, external } = process.memoryUsage()
  mostBytes = Math.max(mostBytes, heapUsed + external)
  looks++
}

const unwatched = preparing(() => undefined)
let lastMs = performance.now()
const watched: Preparing = {
  ...unwatched,
  pause: async () => {
    if (performance.now() - lastMs >= everyMs) {
      look()
      lastMs = performance.now()
    }
    await unwatched.pause()
  },
}
const folder = process.argv[3]!
const job = { ...parseTrainingJob(JSON.parse(process.argv[2]!), folder), cacheFolder: join(folder, 'cache') }
using data = await prepareData(job, undefined, watched)
const check = await dataCheckOf(job, data.kit, data.material, watched)
data.training.at(0)
look()
const { trainingTokens, validationTokens } = data.summary
const found = { mostBytes, looks, records: check.training.samples, trainingTokens, validationTokens }
process.stdout.write(`${JSON.stringify(found)}\n`)
