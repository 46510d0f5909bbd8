/**
 * Log-probabilities of answers by the model that training starts from. They are computed once, before the trained
 * model is loaded, so that two models are never in memory.
 */
import type { Device } from '../../runtime/device.ts'
import type { TrainingJob } from '../job.ts'
import { frozenModel } from '../prepare-model.ts'
import type { PairBatches } from './pair-batches.ts'
import type { PreferenceMethod } from './preference.ts'
import { PreferenceGraph } from './preference-graph.ts'

export async function fillReferences(
  job: TrainingJob,
  method: PreferenceMethod,
  all: readonly PairBatches[],
  device: Device,
): Promise<void> {
  if (method.kind === 'orpo') return
  const { from } = job.model as { from: string }
  using model = frozenModel(from, job.method?.lora?.quantize ?? 'f32', device)
  const shape = { sequences: job.batch, tokens: job.context }
  using graph = new PreferenceGraph(method, model, device, shape, 'evaluate')
  for (const batches of all) {
    const { pairs, references } = batches
    for (let first = 0; first < pairs.length; first += job.batch) {
      // A last batch that is not full begins again at the first pair.
      const numbers = Array.from({ length: job.batch }, (_, row) => (first + row) % pairs.length)
      const { left, right } = await graph.evaluate(batches.batchOf(numbers), 0)
      for (const [row, number] of numbers.entries()) {
        references.left[number] = left[row]!
        references.right[number] = right[row]!
      }
    }
  }
}
