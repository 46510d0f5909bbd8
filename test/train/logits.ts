import type { Device } from '../../src/runtime/device.ts'
import { Graph } from '../../src/runtime/graph.ts'
import { causalMask, documentMask, wholeSequences } from '../../src/train/attention.ts'
import type { Batch } from '../../src/train/batch.ts'
import type { Parameters } from '../../src/train/parameters.ts'

/** Logits [N * V] of every token of a batch. */
export function logitsOf(parameters: Parameters, device: Device, batch: Batch): Float32Array {
  const { architecture, config } = parameters.definition
  const { sequences, tokens, documents } = batch
  using graph = new Graph(device, 2048)
  const { ops } = graph
  const ids = graph.input('I32', [batch.ids.length], 'ids')
  const positions = graph.input('I32', [batch.ids.length], 'positions')
  const mask = graph.input('F32', documents ? [sequences, 1, tokens, tokens] : [tokens, tokens], 'mask')
  const logits = architecture.forward(config, {
    ops,
    tokens: ids,
    positions,
    outputRows: undefined,
    weight: (name) => parameters.weight(name),
    ...parameters.layers(ops),
    attend: wholeSequences(ops, sequences, tokens, mask),
  })
  graph.output(logits)
  graph.allocate()
  ids.write(batch.ids)
  positions.write(batch.positions)
  const values = new Float32Array(mask.size)
  if (documents) documentMask(documents, tokens, values, config.slidingWindow)
  mask.write(documents ? values : causalMask(tokens, config.slidingWindow))
  graph.compute()
  return logits.toFloats()
}
