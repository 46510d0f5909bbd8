import type { DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import type { OpenModel } from '../../src/models/open.ts'
import { defineModel } from '../../src/models/registry.ts'
import { encodeRows } from '../../src/models/rows.ts'
import { loadGgml } from '../../src/runtime/ffi.ts'

/**
 * A random Llama in memory, its matrices in the formats of their names and its norms in F32; or of another family, by what
 * `own` says. Numbers are drawn row by row in the order of the parameters.
 */
export function memoryModel({
  layers,
  formatOf,
  own = {},
}: {
  layers: number
  formatOf: (name: string) => DType
  own?: Record<string, unknown>
}): OpenModel {
  const config = {
    model_type: 'llama',
    vocab_size: 301,
    hidden_size: 256,
    num_hidden_layers: layers,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    intermediate_size: 512,
    max_position_embeddings: 256,
    tie_word_embeddings: true,
    ...own,
  }
  const definition = defineModel(config)
  const random = new Random(3)
  const tensors = new Map(
    definition.architecture.parameters(definition.config).map(({ name, shape, role }) => {
      const count = shape.reduce((a, b) => a * b, 1)
      const values = Float32Array.from({ length: count }, () =>
        role === 'vector' ? 1 : random.normal() / Math.sqrt(256),
      )
      const dtype = role === 'vector' ? 'F32' : formatOf(name)
      const perRow = shape.at(-1)!
      const data = encodeRows(loadGgml(), values, dtype, count / perRow, perRow)
      return [name, { dtype, shape, data }]
    }),
  )
  return {
    path: 'memory',
    definition,
    config,
    metadata: undefined,
    info: (name) => {
      const found = tensors.get(name)
      return found && { name, dtype: found.dtype, shape: [...found.shape], bytes: found.data.length }
    },
    read: (name, into, offset = 0) =>
      into.set(tensors.get(name)!.data.subarray(offset, offset + into.length)),
    transposed: () => false,
    rowOrder: () => undefined,
    [Symbol.dispose]: () => undefined,
  }
}
