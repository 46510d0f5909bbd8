/** Hashes its way through the steps, so that a step done twice or left out shows. Dies or waits where it is told. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import * as ropeway from '../../../sdk/typescript/ropeway.ts'

const { DIE_AT, WAIT_AT, FAIL_RANK, HOPELESS_AT } = process.env
const run = ropeway.init({ totalSteps: 12, keep: 3 })
let state = 1
if (run.inputCheckpoint !== undefined)
  state = JSON.parse(readFileSync(join(run.inputCheckpoint, 'state.json'), 'utf8')).state
while (ropeway.stepsDone() < run.totalSteps) {
  await ropeway.trainStep(() => {
    state = (state * 31 + ropeway.stepsDone() + 7) % 1000003
  })
  const done = ropeway.stepsDone()
  ropeway.metric({ loss: done === 2 ? Number.NaN : 1 / done, state })
  if (String(done) === DIE_AT) process.kill(process.pid, 'SIGKILL')
  if (String(done) === HOPELESS_AT) ropeway.fail(`The count is wrong at ${done}.`)
  let stop = ropeway.emergencySaveRequested()
  if (String(done) === WAIT_AT) {
    console.log('waiting')
    while (!ropeway.emergencySaveRequested()) await delay(10)
    stop = true
  }
  if (run.rank === 0 && (stop || done % 3 === 0)) {
    writeFileSync(join(ropeway.checkpointFolder(), 'state.json'), JSON.stringify({ state }))
    ropeway.uploadCheckpoint()
  }
  if (stop) break
}
console.log(`state ${state} after ${ropeway.stepsDone()} of rank ${run.rank}/${run.worldSize}`)
if (String(run.rank) === FAIL_RANK) process.exit(9)
