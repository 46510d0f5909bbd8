import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, onTestFinished, test, vi } from 'vitest'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import { temporaryFolder } from '../temporary-folder.ts'
import { tinyJob } from '../tiny-job.ts'

const root = temporaryFolder('published', afterAll)

test('a publication stays beside those that an earlier life made of later steps', async () => {
  // A job of the service has no engine to tell: somebody looks for what lies there.
  vi.stubEnv('ROPEWAY_JOB', 'job_1')
  onTestFinished(() => void vi.unstubAllEnvs())
  const model = { architecture: 'llama', layers: 1, heads: 2, width: 16 }
  const { folder: base } = await runTrainingJob(tinyJob(join(root, 'base'), { model, steps: 4 }))
  const job = tinyJob(join(root, 'run'), {
    ...{ model: { from: base }, tokenizer: undefined, steps: 4 },
    method: { lora: { rank: 2 } },
    publish: { deployment: 'poet', every: '4 steps' },
  })
  const later = ['step-000096', 'step-000097', 'step-000098']
  for (const name of later) mkdirSync(join(job.out, 'published', name), { recursive: true })
  const left: string[][] = []
  await runTrainingJob(job, { onPublished: () => left.push(readdirSync(join(job.out, 'published')).sort()) })
  expect(left).toEqual([['step-000004', ...later]])
})
