/** Runs the tiny job in a process of its own that kills itself: `run-child.ts FOLDER WHERE COUNT [CHANGES]`. Steps are lines on stdout. */

import { decodeWithEngine } from '../../src/cli/decoder.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { tinyJob } from './tiny-job.ts'

const [folder, where, count, changes = '{}'] = process.argv.slice(2) as [string, string, string, string?]
let left = Number(count)

/** SIGKILL at the given moment, the `count`-th time that it comes. */
function pass(moment: string): void {
  if (moment === where && --left === 0) process.kill(process.pid, 'SIGKILL')
}

function onStep({ step }: { step: number }): void {
  console.log(step)
  pass('step')
}

const callbacks = { decode: decodeWithEngine, onStep, onSaveStage: pass }
runTrainingJob(tinyJob(folder, JSON.parse(changes)), callbacks).then(
  () => process.exit(0),
  (error) => {
    console.error(error)
    process.exit(1)
  },
)
