import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { architectureNames } from '../../src/models/registry.ts'
import { isMixture } from '../../src/train/mixture-sizes.ts'
import type { JobResult } from '../../src/train/run-callbacks.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { temporaryFolder } from './temporary-folder.ts'
import { tinyJob } from './tiny-job.ts'

const root = temporaryFolder('architectures', afterAll)

// Whoever adds an architecture to the registry finds it here: what can be served can be trained.
describe.each(architectureNames())('%s', (architecture) => {
  const model = { architecture, layers: 2, heads: 2, width: 32 }
  const folder = join(root, architecture)
  const losses: number[] = []
  let first: Promise<JobResult>
  beforeAll(() => {
    const job = tinyJob(join(folder, 'whole'), { model, steps: 24 })
    first = runTrainingJob(job, { onStep: ({ loss }) => losses.push(loss) })
  })

  test('is trained from nothing, and its loss falls', async () => {
    const { outcome } = await first
    expect(outcome).toBe('finished')
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.3)
  })

  test('is trained further from its checkpoint, and by an adapter beside it', async () => {
    const { folder: base, validationLoss } = await first
    // The held-out loss of a mixture first rises, and has fallen after some more steps.
    const steps = isMixture(architecture) ? 36 : 12
    for (const method of [undefined, { lora: { rank: 2, alpha: 4 } }]) {
      const changes = { model: { from: base }, tokenizer: undefined, steps, ...(method && { method }) }
      const out = method === undefined ? 'further' : 'adapter'
      const result = await runTrainingJob(tinyJob(join(folder, out), changes))
      expect(result.validationLoss!).toBeLessThan(validationLoss!)
    }
  })
})
