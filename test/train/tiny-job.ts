/** A job small enough to run in well under a second, for tests of saving and resuming. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Random } from '../../src/base/random.ts'
import { parseTrainingJob, type TrainingJob } from '../../src/train/job.ts'

/** Writes the text into `folder` and gives the job that trains on it there. */
export function tinyJob(folder: string, changes: Record<string, unknown> = {}): TrainingJob {
  mkdirSync(folder, { recursive: true })
  const random = new Random(4)
  const words = ['rope', 'way', 'cabin', 'never', 'stops', 'joins', 'and', 'leaves', 'the', 'moving']
  const text = Array.from({ length: 800 }, () => words[random.integer(words.length)]).join(' ')
  const path = join(folder, 'text.txt')
  // Processes of one run share the file: who reads it must not find it half written.
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) writeFileSync(path, text)
  return parseTrainingJob(
    {
      model: { architecture: 'gpt2', layers: 2, heads: 2, width: 16, bias: false },
      data: { text: 'text.txt', validation: 0.1 },
      tokenizer: 'characters',
      context: 12,
      batch: 3,
      steps: 12,
      seed: 3,
      optimizer: { learning_rate: 0.01 },
      schedule: { warmup_steps: 3, learning_rate_min: 0.001 },
      evaluate: { every: 4, batches: 2 },
      checkpoint: { every: 4, keep: 2 },
      threads: 1,
      device: 'cpu',
      ...changes,
    },
    folder,
  )
}

export function hashOf(checkpoint: string): string {
  const hash = createHash('sha256')
  for (const name of ['model.safetensors', 'optimizer.safetensors'])
    hash.update(readFileSync(join(checkpoint, name)))
  return hash.digest('hex')
}
