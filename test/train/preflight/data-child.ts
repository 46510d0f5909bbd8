/** Prepares the data of the job of argv[2] (JSON) in argv[3] and looks at it, and prints the peak of its memory. */
import { join } from 'node:path'
import { peakBytes } from '../../../bench/harness/peak.ts'
import { preparing } from '../../../src/train/data/preparing.ts'
import { parseTrainingJob } from '../../../src/train/job.ts'
import { prepareData } from '../../../src/train/job-data.ts'
import { dataCheckOf } from '../../../src/train/preflight/data-check.ts'

const silent = preparing(() => undefined)
const folder = process.argv[3]!
const job = { ...parseTrainingJob(JSON.parse(process.argv[2]!), folder), cacheFolder: join(folder, 'cache') }
using data = await prepareData(job, undefined, silent)
const check = await dataCheckOf(job, data.kit, data.material, silent)
data.training.at(0)
const { trainingTokens, validationTokens } = data.summary
const found = { peakBytes: peakBytes(), records: check.training.samples, trainingTokens, validationTokens }
process.stdout.write(`${JSON.stringify(found)}\n`)
