import type { Device } from '../../src/runtime/device.ts'
import { Graph } from '../../src/runtime/graph.ts'
import { SequenceMasks, wholeSequences } from '../../src/train/attention.ts'
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
  const masks = new SequenceMasks(graph, { sequences, tokens, packed: documents !== undefined }, config)
  const logits = architecture.forward(config, {
    ops,
    tokens: ids,
    positions,
    outputRows: undefined,
    weight: (name) => parameters.weight(name),
    ...parameters.layers(ops),
    attend: wholeSequences(ops, sequences, tokens, masks, config),
  })
  graph.output(logits)
  graph.allocate()
  ids.write(batch.ids)
  positions.write(batch.positions)
  masks.writeWhole()
  if (documents) masks.writeDocuments(documents)
  graph.compute()
  return logits.toFloats()
}
