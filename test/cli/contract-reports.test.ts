/** What our trainer reports while it trains as a job. */
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { contractReports } from '../../src/cli/contract-reports.ts'
import { readEvents } from '../../src/control/jobs/contract-events.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'
import { tinyJob } from '../train/tiny-job.ts'

const folder = temporaryFolder('reports', afterAll)

test('of steps within a second one is told, and each that is evaluated, saved, or the last', async () => {
  const path = join(folder, 'events.jsonl')
  const job = tinyJob(join(folder, 'run'), {
    ...{ steps: 11, evaluate: { every: 4, batches: 1 }, checkpoint: { every: 3, keep: 9 } },
  })
  await runTrainingJob(
    job,
    contractReports(path, () => 1_700_000_000_000),
  )
  const { events } = readEvents(path, 0)
  const losses = events.flatMap((event) =>
    event.event === 'metrics' && 'loss' in event.values ? [event] : [],
  )
  expect(losses.map(({ step }) => step)).toEqual([1, 3, 4, 6, 8, 9, 11])
  for (const [place, event] of events.entries()) {
    const isEvaluation = event.event === 'metrics' && 'held_out_loss' in event.values
    if (event.event !== 'checkpoint' && !isEvaluation) continue
    if (event.step === 0) continue
    const own = losses.find(({ step }) => step === event.step)
    expect([event, events.indexOf(own!) < place]).toEqual([event, true])
  }
})
