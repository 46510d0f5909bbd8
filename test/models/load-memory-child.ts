/** Loads a model of 60 MB or so in each format of argv, and prints a JSON line of bytes each: file, weights, growth at the most. */
import { readFileSync, writeFileSync } from 'node:fs'
import { peakBytes } from '../../bench/harness/peak.ts'
import { bytesOf, type DType } from '../../src/base/dtype.ts'
import type { OpenModel } from '../../src/models/open.ts'
import { defineModel } from '../../src/models/registry.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'

const config = {
  model_type: 'llama',
  vocab_size: 8001,
  hidden_size: 768,
  num_hidden_layers: 6,
  num_attention_heads: 12,
  num_key_value_heads: 4,
  intermediate_size: 2304,
  max_position_embeddings: 256,
  tie_word_embeddings: true,
}

/** A model whose file is made while it is read, so that only what loading keeps is in memory. */
function modelOf(format: DType): { model: OpenModel; fileBytes: number } {
  const definition = defineModel(config)
  const infos = new Map(
    definition.architecture.parameters(definition.config).map(({ name, shape, role }) => {
      const dtype: DType = role === 'vector' ? 'F32' : format
      const bytes = bytesOf(
        dtype,
        shape.reduce((a, b) => a * b, 1),
      )
      return [name, { name, dtype, shape: [...shape], bytes }]
    }),
  )
  const model: OpenModel = {
    path: 'memory',
    definition,
    config,
    metadata: undefined,
    info: (name) => infos.get(name),
    read: (_, into) => into.fill(17),
    transposed: () => false,
    rowOrder: () => undefined,
    [Symbol.dispose]: () => undefined,
  }
  return { model, fileBytes: [...infos.values()].reduce((sum, { bytes }) => sum + bytes, 0) }
}

function residentNow(): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
}

const device = new Device({ device: 'cpu', threads: 1 })
const kernels = loadKernels()
// Code is compiled and buffers have grown before anything is measured.
loadWeights(modelOf('Q8_0').model, device, { kernels })[Symbol.dispose]()
for (const format of process.argv.slice(2) as DType[]) {
  const { model, fileBytes } = modelOf(format)
  const before = residentNow()
  writeFileSync('/proc/self/clear_refs', '5') // the peak begins anew
  using weights = loadWeights(model, device, { kernels })
  process.stdout.write(
    `${JSON.stringify({ format, fileBytes, weightBytes: weights.bytes, grown: peakBytes() - before })}\n`,
  )
}
