/** Runs the tiny job in a process of its own that kills itself: `run-child.ts FOLDER WHERE COUNT`. */

import { runTrainingJob } from '../../src/train/run-job.ts'
import { tinyJob } from './tiny-job.ts'

const [folder, where, count] = process.argv.slice(2) as [string, string, string]
let left = Number(count)

/** SIGKILL at the given moment, the `count`-th time that it comes. */
function pass(moment: string): void {
  if (moment === where && --left === 0) process.kill(process.pid, 'SIGKILL')
}

runTrainingJob(tinyJob(folder), { onStep: () => pass('step'), onSaveStage: pass }).then(
  () => process.exit(0),
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
